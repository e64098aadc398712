from .columns import columns  # noqa: F401  a fixture
