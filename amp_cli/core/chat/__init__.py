"""The one client for OpenAI-compatible endpoints, behind judges and answering models alike."""
