"""Publish on the hub what was made here: PRMs and labels, with a card that says what is known of them.

Invariant: a card holds what run directories and files record, and what whoever publishes says; what neither says is called
not recorded. Importing this file loads neither torch nor huggingface_hub.
"""
