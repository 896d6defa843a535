NAME="babyai"
SPLITS=("train",)
