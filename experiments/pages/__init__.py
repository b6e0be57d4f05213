"""What run folders become for readers: figures and pages."""
