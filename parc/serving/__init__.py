"""A service over HTTP, in the words of OpenAI: a front process that keeps requests, a worker that computes."""
