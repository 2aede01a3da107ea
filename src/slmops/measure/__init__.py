"""What an artifact costs and what it is worth, taken in its real engine: quality, speed, memory, tasks."""
