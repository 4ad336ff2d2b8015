"""Graph walks: breadth-first search and parents in a list of edges, after OpenAI's GraphWalks."""
