"""Flower as programs: how they are started, the bundle of the app, and every patch of Flower's internals."""
