"""What a store says, over HTTP: questions, the processes that answer them, what was answered before."""
