"""One self-contained HTML file with the leaderboard, the plots, samples and provenance."""
