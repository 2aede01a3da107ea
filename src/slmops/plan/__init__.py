"""What will be done, with predicted bytes and seconds, made without opening a weight."""
