"""The config of a run: sections, loading, overrides, schema."""
