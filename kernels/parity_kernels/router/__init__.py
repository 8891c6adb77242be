"""router: logits, softmax over all experts, top-k with ties to the lower id."""
