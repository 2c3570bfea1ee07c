"""Conversations: chat templates, roles, and which tokens of a conversation are trained on."""
