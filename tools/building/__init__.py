"""The build backend that pyproject.toml names."""
