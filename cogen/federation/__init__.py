"""Flower as a program to start: where the app lies, and how a simulation of it is run."""
