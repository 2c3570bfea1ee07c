"""What reward models, preferences and policies trained on either share: their keys, their judges, their measurements."""
