"""What the page at /amoeba shows, in a terminal."""
