"""Two arrays compared, and the verdict on them; nothing here prints, asks or explains."""
