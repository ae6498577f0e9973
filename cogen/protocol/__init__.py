"""The messages between coordinator and domain: one type each, used on both sides, and their form on the wire."""
