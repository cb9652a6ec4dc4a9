"""Parts of the running node that the offline tools do not need."""
