"""What deploy/ hands out, on the real thing: make deploy-test."""
