"""`--summarizer leaderboard`: leaderboard and HTML report of everything that a run did."""

from opencompass_llada.report.summarizers import LeaderboardSummarizer

summarizer = dict(type=LeaderboardSummarizer)
