"""What Dagster's UI sends when people choose partitions and press buttons, over HTTP to a real webserver.

Names and variables are those of the UI that dagster-webserver 1.13.27 ships: `LaunchAssetChoosePartitionsDialog`
sends `launchPartitionBackfill` with the keys of the assets and of the partitions; its one-run form sends
`launchPipelineExecution` for the hidden job `__ASSET_JOB` with range tags; a job's page adds the partition set.
"""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

LOCATION = {"repositoryLocationName": "nexus_assets", "repositoryName": "__repository__"}
ASSET_JOB = "__ASSET_JOB"
ENDED = {"COMPLETED_SUCCESS", "COMPLETED_FAILED", "COMPLETED", "FAILED", "CANCELED"}
RUN_ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
PATIENCE_SECONDS = 240.0

_LAUNCH_BACKFILL = """mutation LaunchPartitionBackfill($backfillParams: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $backfillParams) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
    ... on PartitionKeysNotFoundError { message } ... on PartitionSetNotFoundError { message } } }"""
_LAUNCH_RUN = """mutation LaunchPipelineExecution($executionParams: ExecutionParams!) {
  launchPipelineExecution(executionParams: $executionParams) {
    __typename ... on LaunchRunSuccess { run { id } } ... on PythonError { message } } }"""
_LAUNCH_RUNS = """mutation LaunchMultipleRuns($executionParamsList: [ExecutionParams!]!) {
  launchMultipleRuns(executionParamsList: $executionParamsList) { __typename ... on LaunchMultipleRunsResult {
    launchMultipleRunsResult { __typename ... on LaunchRunSuccess { run { id } } ... on PythonError { message } } } } }
"""
_REEXECUTE_RUN = """mutation LaunchPipelineReexecution($reexecutionParams: ReexecutionParams) {
  launchPipelineReexecution(reexecutionParams: $reexecutionParams) {
    __typename ... on LaunchRunSuccess { run { id } } ... on PythonError { message } } }"""
_REEXECUTE_BACKFILL = """mutation ReexecuteBackfill($reexecutionParams: ReexecutionParams!) {
  reexecutePartitionBackfill(reexecutionParams: $reexecutionParams) {
    __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_RESUME_BACKFILL = """mutation resumeBackfill($backfillId: String!) { resumePartitionBackfill(backfillId: $backfillId) {
    __typename ... on ResumeBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_CANCEL_BACKFILL = """mutation CancelBackfill($backfillId: String!) { cancelPartitionBackfill(backfillId: $backfillId) {
    __typename ... on CancelBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_TERMINATE = """mutation Terminate($runIds: [String!]!, $terminatePolicy: TerminateRunPolicy) {
  terminateRuns(runIds: $runIds, terminatePolicy: $terminatePolicy) { __typename ... on TerminateRunsResult {
    terminateRunResults { __typename ... on TerminateRunSuccess { run { id } } ... on PythonError { message } } } } }"""
_BACKFILL = """query Backfill($backfillId: String!) { partitionBackfillOrError(backfillId: $backfillId) {
  __typename ... on PartitionBackfill { status error { message } } ... on PythonError { message } } }"""
_RUNS = """query Runs($filter: RunsFilter) { pipelineRunsOrError(filter: $filter) { ... on Runs { results {
  id runId status startTime endTime parentRunId tags { key value } } } } }"""
_HEALTH = """query PartitionHealthQuery($assetKey: AssetKeyInput!) { assetNodeOrError(assetKey: $assetKey) {
  ... on AssetNode { partitionKeysByDimension { name partitionKeys } assetPartitionStatuses {
    __typename
    ... on TimePartitionStatuses { ranges { status startKey endKey } }
    ... on MultiPartitionStatuses { primaryDimensionName ranges { primaryDimStartKey primaryDimEndKey secondaryDim {
      __typename ... on DefaultPartitionStatuses { materializedPartitions }
      ... on TimePartitionStatuses { ranges { status startKey endKey } } } } } } } } }"""


class UiError(AssertionError):
    """The webserver answered something that the UI would show in red."""


def _asset(key: str) -> dict[str, list[str]]:
    return {"path": key.split("/")}


def _tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _between(start: str, end: str) -> list[str]:
    """The days from the first to the last, both included."""
    first, last = datetime.fromisoformat(start).date(), datetime.fromisoformat(end).date()
    return [str(first + timedelta(days=n)) for n in range((last - first).days + 1)]


@dataclass(frozen=True)
class Ui:
    """A browser's view of one webserver."""

    url: str

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a query or mutation.

        Raises:
            UiError: the answer holds errors, or an error's type.
        """
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise UiError(f"{error.code}: {error.read().decode(errors='replace')[:2000]}") from error
        if answer.get("errors"):
            raise UiError(str(answer["errors"])[:2000])
        for value in answer["data"].values():
            if isinstance(value, dict) and str(value.get("__typename", "")).endswith("Error"):
                raise UiError(str(value)[:2000])
        return answer["data"]

    def backfill(self, assets: Sequence[str], partitions: Iterable[str] | None = None, *, job: str = "") -> str:
        """Press "Launch backfill" for partitions of these assets (all where None), on the page of a job or of assets.

        Returns:
            The backfill's id.
        """
        parameters: dict[str, Any] = {"tags": [], "assetSelection": [_asset(key) for key in assets]}
        if partitions is None:
            parameters["allPartitions"] = True
        else:
            parameters |= {"partitionNames": list(partitions), "fromFailure": False}
        if job:
            parameters["selector"] = {"partitionSetName": f"{job}_partition_set", "repositorySelector": LOCATION}
        return self._backfill(parameters)

    def backfill_job(self, job: str, partitions: Iterable[str]) -> str:
        """Press "Launch backfill" on the Partitions tab of a job that is more than its assets."""
        selector = {"partitionSetName": f"{job}_partition_set", "repositorySelector": LOCATION}
        return self._backfill(
            {"tags": [], "selector": selector, "partitionNames": list(partitions), "fromFailure": False}
        )

    def backfill_ranges(self, ranges: Mapping[str, Sequence[tuple[str, str]]]) -> str:
        """Different ranges of partitions for each asset. The API has it; the dialog of this version does not."""
        return self._backfill(
            {
                "partitionsByAssets": [
                    {
                        "assetKey": _asset(asset),
                        "partitions": {"ranges": [{"start": start, "end": end} for start, end in pieces]},
                    }
                    for asset, pieces in ranges.items()
                ]
            }
        )

    def _backfill(self, parameters: dict[str, Any]) -> str:
        return self.ask(_LAUNCH_BACKFILL, backfillParams=parameters)["launchPartitionBackfill"]["backfillId"]

    def run_range(self, assets: Sequence[str], first: str, last: str) -> str:
        """Press "Launch 1 run" for a range: the box "Pass partition ranges to single run" is ticked."""
        return self._run(
            assets,
            {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
        )

    def run_partition(self, assets: Sequence[str], partition: str) -> str:
        """Press "Launch 1 run" for one partition; the UI asks the server for the tags of its dimensions."""
        day, symbol = partition.split("|")
        return self._run(
            assets,
            {
                "dagster/partition": partition,
                "dagster/partition/day": day,
                "dagster/partition/symbol": symbol,
            },
        )

    def _run(self, assets: Sequence[str], tags: Mapping[str, str]) -> str:
        answer = self.ask(_LAUNCH_RUN, executionParams=self.execution(assets, tags))
        return answer["launchPipelineExecution"]["run"]["id"]

    def runs_at_once(self, executions: Sequence[Mapping[str, Any]]) -> list[str]:
        """Press "Launch all" for several run requests."""
        answer = self.ask(_LAUNCH_RUNS, executionParamsList=list(executions))["launchMultipleRuns"]
        return [result["run"]["id"] for result in answer["launchMultipleRunsResult"]]

    @staticmethod
    def execution(assets: Sequence[str], tags: Mapping[str, str]) -> dict[str, Any]:
        """The parameters of one run of assets."""
        return {
            "mode": "default",
            "executionMetadata": {"tags": _tags(tags)},
            "runConfigData": "{}",
            "selector": {
                **LOCATION,
                "pipelineName": ASSET_JOB,
                "assetSelection": [_asset(key) for key in assets],
            },
        }

    def reexecute_run(self, run_id: str, strategy: str) -> str:
        """Re-execute a run: `FROM_FAILURE` or `ALL_STEPS`."""
        answer = self.ask(_REEXECUTE_RUN, reexecutionParams={"parentRunId": run_id, "strategy": strategy})
        return answer["launchPipelineReexecution"]["run"]["id"]

    def reexecute_backfill(self, backfill_id: str, strategy: str) -> str:
        """Re-execute a backfill: `FROM_FAILURE` or `ALL_STEPS`."""
        answer = self.ask(_REEXECUTE_BACKFILL, reexecutionParams={"parentRunId": backfill_id, "strategy": strategy})
        return answer["reexecutePartitionBackfill"]["backfillId"]

    def resume(self, backfill_id: str) -> None:
        """Press "Resume and launch remaining runs"."""
        self.ask(_RESUME_BACKFILL, backfillId=backfill_id)

    def cancel(self, backfill_id: str) -> None:
        """Press "Cancel backfill"."""
        self.ask(_CANCEL_BACKFILL, backfillId=backfill_id)

    def terminate(self, *run_ids: str) -> None:
        """Press "Terminate"; the box "Force termination immediately" is not ticked."""
        answer = self.ask(_TERMINATE, runIds=list(run_ids), terminatePolicy="SAFE_TERMINATE")["terminateRuns"]
        assert all(result["__typename"] == "TerminateRunSuccess" for result in answer["terminateRunResults"]), answer

    def status(self, backfill_id: str) -> str:
        """What the backfill's page shows as its status."""
        return self.ask(_BACKFILL, backfillId=backfill_id)["partitionBackfillOrError"]["status"]

    def runs(self, **chosen: Any) -> list[dict[str, Any]]:
        """Runs, the newest first; as RunsFilter has it, or of `backfill`."""
        if "backfill" in chosen:
            chosen["tags"] = _tags({"dagster/backfill": chosen.pop("backfill")})
        found = self.ask(_RUNS, filter=chosen)["pipelineRunsOrError"]["results"]
        return [{**run, "tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def await_backfills(self, *backfill_ids: str, status: str = "COMPLETED_SUCCESS") -> None:
        """Look at the page until the backfills have ended, all with this status."""
        self.until(lambda: all(self.status(one) in ENDED for one in backfill_ids), "the end of the backfills")
        found = {one: self.status(one) for one in backfill_ids}
        assert found == dict.fromkeys(backfill_ids, status), [self.runs(backfill=one) for one in backfill_ids]

    def await_runs(self, *run_ids: str, status: str = "SUCCESS") -> None:
        """Look at the page until the runs have ended, all with this status."""
        self.until(lambda: all(run["status"] in RUN_ENDED for run in self.runs(runIds=run_ids)), "the end of the runs")
        assert {run["id"]: run["status"] for run in self.runs(runIds=run_ids)} == dict.fromkeys(run_ids, status)

    def until(self, condition: Any, what: str, *, seconds: float = PATIENCE_SECONDS) -> Any:
        """What the condition finds, asked again while it finds nothing and while the server is away."""
        deadline = time.monotonic() + seconds
        while True:
            error: Exception | None = None
            try:
                if found := condition():
                    return found
            except (UiError, OSError) as away:
                error = away
            assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s {error or ''}"
            time.sleep(0.2)

    def materialised(self, asset: str) -> set[str]:
        """The partitions that the asset's page shows in green."""
        node = self.ask(_HEALTH, assetKey=_asset(asset))["assetNodeOrError"]
        found: set[str] = set()
        statuses = node["assetPartitionStatuses"]
        if statuses["__typename"] == "TimePartitionStatuses":
            return _green(statuses["ranges"])
        keys = {dimension["name"]: dimension["partitionKeys"] for dimension in node["partitionKeysByDimension"]}
        primary = keys[statuses["primaryDimensionName"]]
        for piece in statuses["ranges"]:
            first, last = primary.index(piece["primaryDimStartKey"]), primary.index(piece["primaryDimEndKey"])
            second = piece["secondaryDim"]
            others = second.get("materializedPartitions") or _green(second.get("ranges", []))
            for one in primary[first : last + 1]:
                pairs = (
                    (one, other) if statuses["primaryDimensionName"] == "day" else (other, one) for other in others
                )
                found |= {f"{day}|{symbol}" for day, symbol in pairs}
        return found

    def partitions(self, asset: str) -> list[str]:
        """Every partition that the asset's page offers, by the order of its dimensions."""
        dimensions = self.ask(_HEALTH, assetKey=_asset(asset))["assetNodeOrError"]["partitionKeysByDimension"]
        keys = [""]
        for dimension in dimensions:
            keys = [f"{key}|{value}".lstrip("|") for key in keys for value in dimension["partitionKeys"]]
        return keys

    def missing(self, asset: str) -> list[str]:
        """What "Backfill only failed and missing partitions" sends."""
        green = self.materialised(asset)
        return [key for key in self.partitions(asset) if key not in green]


def _green(ranges: Iterable[Mapping[str, str]]) -> set[str]:
    return {
        key
        for piece in ranges
        if piece["status"] == "MATERIALIZED"
        for key in _between(piece["startKey"], piece["endKey"])
    }
