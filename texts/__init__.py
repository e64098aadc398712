"""The words a user reads, made from the nodes' schemas: a developer's tool, not shipped.

``schemas`` reads the schemas without ComfyUI, ``locales`` makes the English locale and says what translations lack,
``pages`` makes the tables of help pages, ``node_tables`` those of all nodes, ``crossings_page`` the page of what goes
with what from the table in ``crossings``, ``checks`` says what is stale. ``python -m texts`` is the command;
``locales/README.md`` says when to use it.
"""
