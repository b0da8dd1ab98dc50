"""``kubectl millpond``: what a person asks of the virtualization database, answered in sentences.

Reads through the ``Kube`` port, decides nothing. What is shown is made by pure functions (``report``).
"""
