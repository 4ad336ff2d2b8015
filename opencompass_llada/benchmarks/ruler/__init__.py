"""RULER's 13 tasks (arXiv 2404.06654), with OpenCompass's prompts from 4,096 tokens on."""
