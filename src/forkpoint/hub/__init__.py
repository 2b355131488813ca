"""Publish PRMs and labels on the hub, with a card that says what is known about them.

Invariant: a card contains what run directories and files record and what the publisher states; anything else
is marked as not recorded. Importing this file loads neither torch nor huggingface_hub.
"""
