"""What the user sees. Thin V3 nodes: they check, call and return; the arithmetic is below."""

NODES = []
