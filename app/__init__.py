"""The application: domain, machinery and edges."""
