"""What a reader sees: tables of runs and baselines, in Markdown, CSV, JSON and the terminal."""
