"""The served system: the experiment's models and router behind an OpenAI-compatible API, as a Ray Serve application."""
