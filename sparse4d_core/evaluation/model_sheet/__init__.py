"""What a model ships with: its scores at several rates and without cameras, bfloat16, duplicates, vertical velocity."""
