"""Networks of the published systems, a folder each: no host is known here.

``model.py`` is the network, ``weights.py`` the published names and sizes, ``load.py`` a file made into it. Start at the
``load.py`` of a system; :mod:`.embedded` holds the parts of the model that comes with the pack.
"""
