"""The page in the browser. The only folder that imports viser."""
