"""What adapters remember of the text that they were trained on: attacks on them, and the record of what these found."""
