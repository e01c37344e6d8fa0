"""Commands about registered versions."""
