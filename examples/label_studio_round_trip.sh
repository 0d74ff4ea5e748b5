#!/usr/bin/env bash
# Create a Label Studio project, import images, let the model label them, and read the predictions back.
#
#     uv run wholebody serve    # in another terminal
#     export LABEL_STUDIO_URL=http://localhost:8080 LABEL_STUDIO_API_TOKEN=…
#     uv run bash examples/label_studio_round_trip.sh model_files predictions.json
#
# Label Studio must run with USE_DEFAULT_BANNED_SUBNETS=false to accept a node in its own network.
set -euo pipefail
images=$1
predictions=$2

setup=$(wholebody labelstudio init --title 'Round trip')
echo "$setup"
project=${setup##*--project } # the last line names the number of the project

wholebody labelstudio import --project "$project" "$images"
wholebody labelstudio preannotate --project "$project"
wholebody labelstudio export --project "$project" --predictions --format json --output "$predictions"
