"""Archives: thousands of pictures on their way through one method, and what is known of each.

:mod:`.finding` walks a folder, :mod:`.journal` knows what is done (SQLite), :mod:`.receipts` what a worker finished
that nobody heard of, :mod:`.folders` what a small file beside the pictures says, :mod:`.xmp` what a result says of
itself, and :mod:`.report` is the page to look at. Start at ``pipelines/archive.py``.
"""
