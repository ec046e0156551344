"""What the command line may say: commands, options, arguments."""
