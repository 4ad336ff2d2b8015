"""`--summarizer leaderboard`: leaderboard and HTML report of everything that a run did."""

from opencompass_llada.report.leaderboard_summarizer import LeaderboardSummarizer

summarizer = dict(type=LeaderboardSummarizer)
