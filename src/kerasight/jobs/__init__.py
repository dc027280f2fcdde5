"""From many pictures to their explanations."""
