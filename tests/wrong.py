"""Everything that can be wrong: commands, configurations, plug-ins, run folders."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wrong_graphs import COMMANDS, GRAPHS

import decentral.cli
from decentral.run.digests import seal

WRECKS = (
    "old",
    "before",
    "later",
    "old_checkpoint",
    "empty",
    "damaged",
    "resized",
    "python",
    "broken_metrics",
    "full",
    "growing",
)
SMALL = "launch --task quadratic nodes=4 steps=4"

#: Files whose member declares what its kind does not have, or not so.
DECLARED = {
    "misspelt.py": "@plugin('algorithm', comunicates='never')\ndef mine(block, action): ...",
    "singular.py": "@plugin('algorithm', guarantee=('keeps_mean',))\ndef mine(block, action): ...",
    "wrong_word.py": "@plugin('algorithm', guarantees=('keeps_men',))\n"
    "def mine(block, action): ...",
    "wrong_type.py": "@plugin('topology', activation='sometimes')\ndef mine(n): ...",
    "no_records.py": "@plugin('metric', records='mine/word')\ndef mine(snapshot): ...",
    "incomplete.py": "@plugin('fault')\ndef mine(ids, step, seed): ...",
    "no_setting.py": "@plugin('algorithm', fragments='parts')\ndef mine(block, action): ...",
    "no_state.py": "@plugin('algorithm', counts='active')\ndef mine(block, action): ...",
    "no_default.py": "@plugin('communication', final_merge='perhaps')\ndef mine(p, f): ...",
}

PLUGINS = """
import os, networkx as nx, torch
from torch import nn
from decentral import Task, plugin

@plugin("algorithm", time="events")
def sleepy(node, event): None if event.kind == "gradient" else node.compute()
def halves(n): return nx.empty_graph(n)
def leaving(n): raise SystemExit(0)
def broken(n): raise ZeroDivisionError("no graph today")
def text(n): return "ring"
def small(n): return nx.cycle_graph(3)
def backwards(n):
    graph = nx.cycle_graph(n)
    nx.set_edge_attributes(graph, -1.0, "latency_s")
    return graph
def curious(weather): return nx.cycle_graph(4)
def generous(n, round):
    graph = nx.DiGraph(nx.cycle_graph(n))
    nx.set_edge_attributes(graph, 0.9, "weight")
    return graph

def idle(block, act): block.adapt()
def frozen_rows(block, act): block.gradient()

def lyric(snapshot): return "a fine model"
def wordy(snapshot): return {"mine/word": "fine"}
def numbered(snapshot): return {7: 1.0}
def usurping(snapshot): return {"comm/bytes": 1.0}
def imitating(snapshot): return {"loss/merged": 1.0}

def unplugged(progress, feedback): raise RuntimeError("no signal")
@plugin("communication", closed_loop=True)
def runaway(progress, feedback): return progress.step * 1.0
def cold(progress):
    if progress.step > 2:
        raise RuntimeError("no heat")
    return 1.0
def crumbs(progress): return 0.5
def too_much(progress, feedback): return 1.5
def silent(progress, feedback): return None

@plugin("claim", paper="nobody", says="It works.", expect=())
def shy(lab, seed):
    'Say nothing.'

@plugin("claim", paper="nobody", says="It works.", expect=())
def fatal(lab, seed):
    'End the process.'
    os._exit(9)

@plugin("tracker", package="telegraph")
def wired(folder, config, step): raise NotImplementedError

def nothing(nodes): return 3
def strange(nodes, wind): return 3
def mismatched(nodes):
    return Task(train=(torch.zeros(4, 1), torch.zeros(3)), loss=nn.functional.mse_loss)
def orphaned(nodes):
    model = lambda: nn.Linear(1, 1)
    pair = (torch.zeros(4, 1), torch.zeros(4, 1))
    return Task(model=model, train=pair, test=pair, loss=nn.functional.mse_loss,
                owners=torch.tensor([0, 0, 1, 1]))

def judged(nodes):
    pair = (torch.zeros(8, 3), torch.arange(8) % 2)
    return Task(train=pair, loss=nn.functional.cross_entropy, objective=lambda of: of["weight"])

def vectors(nodes):
    return Task(train=(torch.zeros(8, 3), torch.arange(8) % 2), loss=nn.functional.cross_entropy)

def tokens(nodes):
    return Task(model=lambda: nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2)),
                train=(torch.arange(32).view(8, 4) % 5, torch.arange(8) % 2),
                loss=nn.functional.cross_entropy)

def words(shape, outputs): return "mlp"
def frozen(shape, outputs): return nn.Flatten()
def narrow(shape, outputs): return nn.Linear(3, 2)
class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(64, 10)
    def forward(self, x):
        y = self.inner(x.flatten(1))
        return y if y.sum().item() > 0 else -y
def branching(shape, outputs): return Branching()

def unconnected(nodes): return "lan"
def lopsided(labels, nodes, seed): return [[1.0]]
"""


@dataclass(frozen=True)
class Case:
    """A command that must fail: its words, split at spaces, and its exit status."""

    name: str
    words: str
    status: int = 2


def small(settings: str) -> str:
    """Return the small run with these settings, each given once."""
    own = {f" {word.partition('=')[0]}=" for word in settings.split() if "=" in word}
    kept = [w for w in SMALL.split() if f" {w.partition('=')[0]}=" not in own]
    return f"{' '.join(kept)} {settings}"


def launch(name: str, settings: str, status: int = 2) -> Case:
    return Case(name, small(settings), status)


CASES = [
    # the engine, and its workers
    launch("a setting of the engine beside it", "workers=4"),
    launch("an engine without workers", "engine=local engine.workers=4"),
    launch("an engine of two numbers", "engine=ray(4,2)"),
    launch("unknown setting of the engine", "engine.worker=4"),
    launch("more workers than nodes", "engine.workers=9 nodes=4"),
    launch("address without a port", "engine.address=nowhere"),
    launch("address that does not answer", "engine.address=127.0.0.1:1"),
    launch("port beyond the last", "engine.workers=2 engine.dashboard_port=70000"),
    launch("unknown fault", "engine.workers=2 faults=[kil(worker=0,step=1)]"),
    launch("fault without a step", "engine.workers=2 faults=[kill(worker=0)]"),
    launch("faults without workers", "faults=[kill(worker=0,step=3)]"),
    # what goes wrong, and who is bad
    launch("fault of a node that is not there", "faults=[churn(nodes=[9])]"),
    launch("fault that never begins", "faults=[lost(start=100%)]"),
    launch("fault in short stretches", "faults=[bursts(share=0.9,length=2)]"),
    launch("fault with an unknown setting", "faults=[lost(shar=0.1)]"),
    launch("faults under all-reduce", "algorithm=allreduce faults=[churn]"),
    launch("one-way losses and balance", "algorithm=gradient_tracking faults=[lost]"),
    launch("losses of sums", "algorithm=push_sum faults=[lost]"),
    launch("changing links by faults", "algorithm=exact_diffusion faults=[outages]"),
    launch("attack by nobody", "attack=noise"),
    launch("attack named twice", "attack=noise(nodes=[1],share=0.5)"),
    launch("attack of a node that is not there", "attack=noise(nodes=[4])"),
    launch("attack by all", "attack=noise(share=1.0)"),
    launch("attack that never begins", "attack=noise(nodes=[1],start=100%)"),
    launch("flipped labels without classes", "attack=label_flip(nodes=[1])"),
    launch("attack without messages", "attack=noise(nodes=[1]) algorithm=local"),
    launch("aggregation without messages", "aggregation=median algorithm=allreduce"),
    launch("median of sums", "aggregation=median algorithm=push_sum"),
    launch("unknown aggregation", "aggregation=mean"),
    # nodes that rest
    launch("more participants than nodes", "participation=5"),
    launch("half a participant", "participation=2.5"),
    launch("no participants", "participation=0"),
    launch("participation in an all-reduce", "participation=2 algorithm=allreduce"),
    launch(
        "participation and feedback", "participation=2 communication=adaptive(target=0.1)"
    ),
    launch(
        "outer momentum of neighbours that rest",
        "participation=2 algorithm=diloco communication=constant",
    ),
    launch("state of nodes that rest", "participation=2 mix_state=true"),
    launch("momentum of nodes that rest", "participation=2 sam=0.05"),
    # the words of a command
    Case("unknown command", "lunch"),
    Case("missing command", "show ring"),
    Case("unknown option", "launch --topolgy ring"),
    Case("option without value", "launch --topology"),
    Case("unknown word", "explain gosip"),
    Case("unknown section of a page", "explain trouble bad-node"),
    Case("unknown shell", "--show-completion tcsh"),
    Case("missing argument", "resume"),
    Case("two configuration files", "launch one.yaml two.yaml"),
    Case("setting given twice", "launch --nodes 4 nodes=8"),
    Case("setting given twice by key", "launch nodes=4 nodes=8"),
    Case("flag given twice", "launch --nodes 4 --nodes=8"),
    Case("flag given twice, under two names", "launch --batch 4 --batch-schedule 8"),
    Case(
        "setting of a plug-in given twice",
        "launch optimizer=sgd(momentum=0.9) optimizer.momentum=0.5",
    ),
    Case("rate given twice", "launch learning_rate=0.1 --lr 0.2"),
    Case("change given twice", "resume full --change steps=8 --change steps=9"),
    Case("sweep of a setting twice", "sweep seed=0,1 seed=2"),
    Case("sweep of a flag twice", "sweep seed=0,1 engine=local --engine ray"),
    Case("setting as a flag", "launch --clip 1.0"),
    Case("number with a zero before it", "launch --steps 010"),
    Case("truth for a number", "launch steps=true"),
    Case("truth for a number of a plug-in", "launch optimizer=sgd(momentum=true)"),
    Case("mapping without its end", "launch optimizer.chi={norm:1"),
    Case(
        "setting within a number",
        "launch optimizer=sgd optimizer.momentum=1 optimizer.momentum.x=1",
    ),
    Case(
        "setting within a call",
        "launch schedule=every(2,late(50%)) schedule.schedule.start=1%",
    ),
    Case("setting given under two names", "launch schedule=late communication=early"),
    Case("not an assignment", "show schedule late nodes=4 =8"),
    Case("empty value", "launch nodes="),
    Case("list: unknown kind", "list topologie"),
    Case("list: unknown name", "list topologies rong"),
    Case("list: unknown setting", "list settings engin"),
    Case("check: nothing", "check"),
    Case("check: no such path", "check nowhere"),
    Case("check: no run", "check plugins"),
    Case("check: mistakes", "check list.yaml"),
    Case("check: a damaged run", "check damaged", status=1),
    Case("list: nodes of something else", "list tasks --nodes 8"),
    Case("list: too many nodes", "list topologies --nodes 5000"),
    # sweeps, and a start
    Case("sweep of one point", "sweep seed=1"),
    Case("sweep without values", "sweep axes_empty.yaml"),
    Case("sweep that is a list", "sweep axes_list.yaml"),
    Case("sweep over no range", "sweep seed=3..1"),
    Case("sweep into a file", "sweep seed=0,1 --out one.yaml"),
    Case(
        "sweep with a failing point",
        "sweep task=quadratic nodes=5 steps=4 topology=ring,torus --out swept",
        1,
    ),
    Case("a sweep as a run", "launch axes.yaml"),
    Case("init where something is", "init started"),
    Case("init in a file", "init one.yaml"),
    # configuration files
    Case("missing file", "launch missing.yaml"),
    Case("file beside the folder of a configuration", "launch deep/below.yaml"),
    Case("malformed YAML", "launch malformed.yaml"),
    Case("YAML that is a list", "launch list.yaml"),
    Case("a folder as configuration", "launch plugins"),
    Case("a binary file as configuration", "launch binary.yaml"),
    # settings
    Case("unknown setting", "launch node=4"),
    Case("setting of a setting", "launch nodes.k=4"),
    Case("nodes 0", "launch --nodes 0"),
    Case("nodes is a fraction", "launch --nodes 2.5"),
    Case("unknown choice", "launch init=random"),
    Case("unknown engine", "launch --engine spark"),
    Case("unknown metric", "launch metrics=[acuracy]"),
    Case("alpha 0", "launch --split dirichlet(alpha=0)"),
    Case("all-reduce with topology", "launch --algorithm allreduce --topology ring"),
    # plug-ins as written
    Case("unbalanced parenthesis", "launch --schedule late(start=90%"),
    Case("text after a plug-in", "launch --schedule late(start=90%)x"),
    Case("missing name", "launch --schedule (start=90%)"),
    Case("setting twice in text", "launch --schedule late(start=90%,start=80%)"),
    Case("setting twice by place", "launch --schedule late(90%,start=80%)"),
    Case("too many settings", "launch --schedule constant(0.1,0.2)"),
    Case("unknown setting of a plug-in", "launch --schedule late(begin=90%)"),
    Case("setting of a plug-in without any", "launch --topology ring(k=3)"),
    Case("required setting", "launch --schedule adaptive"),
    Case("wrong type of a plug-in's setting", "launch --optimizer sgd(momentum=heavy)"),
    Case("infinite setting", "launch --schedule adaptive(target=inf)"),
    Case("plug-in is a number", "launch --topology 3"),
    Case("mapping without name", "launch nameless.yaml"),
    # points in time
    Case("bare 1", "launch --schedule late(start=1)"),
    Case("unknown unit", "launch --schedule late(start=9min)"),
    Case("unreadable point", "launch --schedule late(start=soon)"),
    Case("point outside the run", "launch --schedule late(start=120%)"),
    Case("point between steps", "launch --schedule late(start=2.5)"),
    # nodes with learning rates of their own
    launch("rate of a missing node", "node_lr.4=3"),
    launch("negative rate of a node", "node_lr.3=-1"),
    launch("rate of a node by name", "node_lr.first=3"),
    launch("rates of nobody", "node_lr=3"),
    launch("slow momentum at many rates", "node_lr.0=3 algorithm=slowmo"),
    launch("double rows in bfloat16", "precision=bfloat16 dtype=float64"),
    launch(
        "layers again, all rows together", "activation_checkpointing=true replicas=vmap"
    ),
    launch("layers again, of which there are none", "activation_checkpointing=true"),
    Case(
        "layers again, with statistics of batches",
        "launch --task digits --model resnet20 nodes=2 steps=2 activation_checkpointing=true",
    ),
    launch("compiled one at a time", "compile=default replicas=loop"),
    # what is on in phases
    launch("phase that stops before it starts", "sam.start=80% sam.stop=20%"),
    launch("phase that never begins", "sam.start=5000"),
    launch("phases beside a phase", "sam.start=80% sam.phases=[10%]"),
    launch("no phase", "sam.phases=[]"),
    launch("unreadable phase", "label_noise=0.1 label_noise.phases=[soon]"),
    Case("toggling every 0 steps", "launch toggling.yaml"),
    Case("unknown part of a phase", "launch phases.yaml"),
    launch("unknown setting of a method", "sam.rh=0.1"),
    launch("attack without a size", "adversarial.steps=3"),
    launch("tracker without its package", "track=plugins.py:wired"),
    launch("noise without labels", "label_noise=1"),
    launch("flipping numbers", "label_noise=0.5 label_noise.kind=flip"),
    launch("smoothing numbers", "label_smoothing=0.1"),
    Case("noise above certainty", "launch --task digits label_noise=2"),
    Case(
        "numbers added to classes",
        "launch --task digits label_noise=1 label_noise.kind=sign",
    ),
    Case(
        "moving whole numbers", "launch --task plugins.py:tokens nodes=2 adversarial=0.1"
    ),
    # batches and budgets of data
    Case("a codec where nothing gossips", "launch --algorithm diloco codec=int8"),
    Case("epochs of one node", "launch --data 3epochs/node"),
    Case("unreadable amount", "launch --data plenty"),
    Case("amount below 1", "launch --data 0.3"),
    launch("data below one batch", "data=100 batch=32"),
    Case("steps against data", f"{SMALL} data=1000 batch=10"),
    Case("tokens of no text", "launch --task quadratic --data 1Mtokens"),
    launch("batch that is no number", "batch=plugins.py:crumbs"),
    launch("batch that does not grow", "batch=easy_growth(from=64,to=8)"),
    Case("growth from a step", "launch --data 10k --batch-schedule geometric(start=50)"),
    launch("stages without points", "batch=stages(sizes=[8,16],at=[])"),
    launch("plan without shares", "batch=plan(sizes=[8,16],at=[])"),
    Case("plan without a plan", "launch --batch-schedule plan(one.yaml)"),
    # the planner
    Case("plan: for what", "plan batch --budget 1M"),
    Case("plan: source 0", "plan batch --source 0 --capacity 2"),
    Case("plan: capacity 1", "plan batch --source 1 --capacity 1"),
    Case("plan: unreadable budget", "plan batch --source 1 --capacity 2 --budget plenty"),
    Case(
        "plan: budget in tokens", "plan batch --source 1 --capacity 2 --budget 1Mtokens"
    ),
    Case(
        "plan: budget below one batch",
        "plan batch --source 1 --capacity 2 --budget 4 --min 8",
    ),
    Case("plan: min above max", "plan batch --source 1 --capacity 2 --min 64 --max 8"),
    Case("plan: min 0", "plan batch --source 1 --capacity 2 --min 0"),
    Case("plan: few curves", "plan batch --from finished"),
    Case("plan: a batch that grows", "plan batch --from finished growing"),
    Case(
        "plan: a missing folder",
        "plan batch --source 1 --capacity 2 --budget 1k --out nowhere/plan.yaml",
    ),
    # unknown names
    Case("unknown topology", "launch topology=xyzzy"),
    Case("misspelt topology", "launch --topology rng"),
    Case("unknown networkx generator", "launch --topology nx:watts_strogatz"),
    Case("missing topology file", "launch --topology graph.gml"),
    Case("unreadable topology file", "launch --topology broken.json"),
    Case("topology file with a wrong unit", "launch --topology units.json nodes=2"),
    Case(
        "topology file with a negative latency", "launch --topology negative.json nodes=2"
    ),
    *(Case(name, words) for name, words in COMMANDS.items()),
    # networks
    Case("network with a wrong unit", "launch network=lan(latency_s=20parsecs)"),
    launch("network file without costs", "network=free.json nodes=2"),
    launch("network file with a zero bandwidth", "network=clogged.json nodes=2"),
    launch("network file with a link without costs", "network=partly.json nodes=3"),
    launch("network file with a missing link", "network=parts.json nodes=3"),
    launch("network file of another size", "network=parts.json nodes=4"),
    launch("network that is none", "network=plugins.py:unconnected"),
    launch("topology with an impossible link", "topology=plugins.py:backwards"),
    launch("compute in unknown units", "network=lan compute=20parsecs"),
    launch("compute negative", "network=lan compute=-20ms"),
    Case("network file with a narrow line", "show network narrow.json"),
    Case("model of no size", "show network lan --model-size 0"),
    Case("model of an unknown size", "plan communication --model-size 3apples"),
    Case("deadline in unknown units", "plan communication --deadline 2fortnights"),
    Case(
        "plan of a closed loop", "plan communication --schedule adaptive(0.1) --steps 10"
    ),
    Case("optimizer of a missing package", "launch --optimizer lion_pytorch.Lion"),
    Case("not an optimizer", "launch --optimizer torch.optim.Adan"),
    Case("optimizer with a closure", "launch --optimizer torch.optim.LBFGS"),
    Case(
        "optimizer of matrices without one",
        "launch --task quadratic --optimizer muon_lite",
    ),
    Case("blockwise: unknown block", "launch --optimizer sgd(blockwise='kq=8')"),
    Case("blockwise: parameters of no block", "launch optimizer.blockwise=true"),
    Case(
        "blockwise: pattern of nothing", "launch --optimizer sgd(blockwise='*=1,9.*=2')"
    ),
    Case("blockwise: negative ratio", "launch --optimizer sgd(blockwise='qk=-8')"),
    Case("blockwise: floor", "launch --optimizer sgd(blockwise='floor=2')"),
    Case("blockwise: not ratios", "launch --optimizer sgd(blockwise=fast)"),
    Case(
        "optimizer that refuses its settings",
        "launch --optimizer torch.optim.RAdam(eps=-1)",
    ),
    Case(
        "a shipped optimizer that refuses them",
        "launch --optimizer sgd(momentum=0,nesterov=true)",
    ),
    # a user's own plug-ins
    Case("missing plug-in file", "launch --topology nowhere.py:ring"),
    Case("trust: no digest", "merge finished --trust plugins.py"),
    Case("plug-in file without function", "launch --topology plugins.py"),
    Case("missing function", "launch --topology plugins.py:haves"),
    Case(
        "function that nothing is called like", "launch --topology lone.py:hypercubical"
    ),
    Case("plug-in that raises at import", "launch --topology raises.py:ring"),
    Case("plug-in that does not parse", "launch --topology syntax.py:ring"),
    Case("plug-in of an unknown kind", "launch --topology kind.py:ring"),
    *(Case(f"traits: {file[:-3]}", f"list topology {file}:mine") for file in DECLARED),
    Case("plug-in with a taken name", "launch --topology taken.py:ring"),
    launch("topology raises", "topology=plugins.py:broken"),
    launch("topology is disconnected", "topology=plugins.py:halves"),
    launch("topology is no graph", "topology=plugins.py:text"),
    launch("topology of another size", "topology=plugins.py:small"),
    launch("topology asks for more", "topology=plugins.py:curious"),
    launch("random graph never connected", "topology=erdos_renyi(p=0.0001) nodes=30"),
    launch("weights above 1", "topology=plugins.py:generous"),
    Case("show topology: a flag as a setting", "show topology star weights=lazy"),
    Case("a setting of the run in a plug-in", "show topology star(weights=lazy)"),
    Case("a comma in a setting", f"{SMALL} optimizer=sgd(momentum=0,9)"),
    Case("nodes that do not fit a topology", "show topology hypercube --nodes 12"),
    Case(
        "settings that fit no nodes",
        "show topology hyper_cuboid(sizes=[2000,2]) --nodes 8",
    ),
    launch("fixed weights on a changing graph", "topology=base_k weights=fastest_mixing"),
    launch(
        "tracking on an uneven graph",
        "algorithm=gradient_tracking topology=random_neighbors",
    ),
    launch("top-k without choco", "codec=top_k"),
    launch("choco and late", "codec=choco"),
    launch("a codec for all-reduce", "algorithm=allreduce codec=int8"),
    launch(
        "neighbours drawn from a graph that changes",
        "topology=random_neighbors(among=base_k)",
    ),
    launch("relay on a ring", "algorithm=relay_sum topology=ring"),
    launch("codecs between events", "algorithm=swift codec=int8"),
    launch("a server that is far", "algorithm=fedasync topology=ring"),
    launch("a trace that is not there", "network=lan compute=trace(none.csv)"),
    launch("a trace that goes back", "network=lan compute=trace(back.csv)"),
    launch("lines that rounds do not follow", "network=lan compute=trace(lines.csv)"),
    Case("an algorithm that is planned without", "plan communication --algorithm dsgd"),
    launch("messages that somebody waits for", "network=lan compute=trace(offline=lost)"),
    launch("steps that take no time", "algorithm=swift compute=0s"),
    launch("seconds that end rounds", "seconds=60s"),
    launch("seconds that never are", "algorithm=swift seconds=0s"),
    launch("two momenta", "algorithm=quasi_global_momentum optimizer=adamw"),
    launch("push-sum with other weights", "algorithm=push_sum weights=metropolis"),
    launch("metropolis on a directed graph", "topology=exponential weights=metropolis"),
    launch("schedule raises", "communication=plugins.py:unplugged"),
    launch("schedule out of range", "communication=plugins.py:too_much"),
    launch("schedule without intensity", "communication=plugins.py:silent"),
    launch("schedule out of range in the run", "communication=plugins.py:runaway", 1),
    launch("learning rate raises in the run", "learning_rate=plugins.py:cold", 1),
    launch("no gradient", "algorithm=plugins.py:idle --out runs/of-idle", 1),
    launch("no update", "algorithm=plugins.py:frozen_rows --out runs/of-frozen", 1),
    launch("metric returns text", "metrics=plugins.py:lyric --out runs/of-lyric", 1),
    launch(
        "metric returns text for a key", "metrics=plugins.py:wordy --out runs/of-wordy", 1
    ),
    launch(
        "metric with a key that is no text",
        "metrics=plugins.py:numbered --out runs/of-numbered",
        1,
    ),
    launch(
        "metric with a key of the loop",
        "metrics=plugins.py:usurping --out runs/of-usurping",
        1,
    ),
    launch(
        "metric with another's key",
        "metrics=[loss,plugins.py:imitating] --out runs/of-imitating",
        1,
    ),
    Case("task is no task", "launch nodes=4 --task plugins.py:nothing"),
    Case("task asks for more", "launch nodes=4 --task plugins.py:strange"),
    Case("task with unequal lengths", "launch nodes=4 --task plugins.py:mismatched"),
    Case("an objective beside an accuracy", "launch nodes=4 --task plugins.py:judged"),
    Case("task that forgets a node", "launch nodes=4 --task plugins.py:orphaned"),
    # what does not fit together
    Case("model is no module", "launch --model plugins.py:words"),
    Case("model without parameters", "launch --model plugins.py:frozen"),
    Case(
        "model that vmap cannot run", "launch --model plugins.py:branching replicas=vmap"
    ),
    Case(
        "model that vmap cannot run, compiled",
        "launch --model plugins.py:branching compile=default",
    ),
    Case("model that does not fit the data", "launch --model plugins.py:narrow"),
    Case("cnn on vectors", "launch --task plugins.py:vectors --model cnn"),
    Case("cnn with too many poolings", "launch --model cnn(channels=[4,4,4,4])"),
    Case("more classes than there are", "launch --split classes(k=11)"),
    Case("more nodes than samples", "launch --nodes 2000"),
    Case("split without classes", "launch --task circle --split dirichlet"),
    Case("split of a wrong shape", "launch --split plugins.py:lopsided"),
    launch("unknown device", "device=abacus"),
    launch(
        "unreachable budget", "communication=scale_to_budget(schedule=late,budget=300%)"
    ),
    launch(
        "budget below the merge", "communication=scale_to_budget(schedule=late,budget=1%)"
    ),
    launch(
        "unreadable budget", "communication=scale_to_budget(schedule=late,budget=cheap)"
    ),
    launch(
        "budget in unknown units",
        "communication=scale_to_budget(schedule=late,budget=2Mo/node)",
    ),
    launch(
        "budget of a closed loop",
        "communication=scale_to_budget(schedule=adaptive(0.1),budget=5%)",
    ),
    launch(
        "nested budget",
        "communication=every(k=2,schedule=scale_to_budget(late,budget=5%))",
    ),
    # claims
    Case("unknown claim", "reproduce single-merg"),
    Case("claim without a finding", "reproduce plugins.py:shy --jobs 1", 1),
    Case(
        "claim whose process ends", "reproduce plugins.py:fatal --jobs 2 --seeds 0,1", 1
    ),
    Case("seeds", "reproduce gradpower --seeds 0,0"),
    Case("settings of two claims", "reproduce gradpower single-merge ratio=3"),
    Case("unknown size of a claim", "reproduce gradpower --size log"),
    Case("claim without the size long", "reproduce late-sam --size long"),
    Case("seeds of the size long at a time", "reproduce lite --size long --jobs 4"),
    Case("no text for the size long", "reproduce lite --size long path=plugins.py", 1),
    # runs
    launch("NaN", "--lr 1e30 steps=40", 1),
    launch("NaN everywhere", "--lr 1e30 steps=40 on_nonfinite=quarantine", 1),
    launch("nodes that nobody wakes", "algorithm=plugins.py:sleepy compute=20ms", 1),
    launch("NaN in events", "--lr 1e30 steps=40 algorithm=swift", 1),
    launch("more steps than memory", "steps=1e12"),
    launch("a batch of a slip", "batch=1e9"),
    launch("threads of a slip", "threads=100000"),
    launch("nodes of a slip", "nodes=1e9"),
    launch("plug-in that exits", "topology=plugins.py:leaving"),
    launch("plug-in file that exits", "topology=leaving.py:ring"),
    launch("folder holds a run", "--out finished"),
    launch("folder below a file", "--out list.yaml/run"),
    Case("resume: no folder", "resume nowhere"),
    Case("resume: misspelt folder", "resume finishd"),
    Case("resume: finished run", "resume finished"),
    Case("resume: another version", "resume old"),
    Case("resume: the format before", "resume before"),
    Case("resume: a setting of a later version", "resume later"),
    Case("resume: rows rounded on their way", "resume damaged engine.wire=bfloat16"),
    Case("resume: checkpoint of another version", "resume old_checkpoint"),
    Case("analyze: no checkpoint", "analyze empty", 1),
    launch("folder holds another run without a checkpoint", "nodes=5 --out empty"),
    Case("resume: damaged checkpoint", "resume damaged", 1),
    Case("resume: other nodes", "resume resized"),
    Case("resume: a task from Python", "resume python"),
    Case(
        "launch: the YAML of a run with a task from Python", "launch python/config.yaml"
    ),
    Case("report: no folder", "report nowhere"),
    Case("report: no run", "report plugins"),
    Case("report: damaged metrics", "report broken_metrics"),
    Case("report: no room", "report full", 1),
    launch("merge that must see all models", "merge=median"),
    Case("merge: a rule for two models", "merge finished --rule slerp"),
    Case("merge: no such checkpoint", "merge finished --step 99"),
    Case("merge: unknown rule", "merge finished --rule meen"),
    Case("analyze: page below a file", "analyze finished --out list.yaml/page"),
    Case("export: folder in use", "export finished --out started"),
    Case("compare: page in a missing folder", "compare finished --out nowhere/page.html"),
    Case("a model of numbers for tokens", "launch --task text --model mlp"),
    Case("a model of tokens for numbers", "launch --task digits --model gpt"),
    Case("patches that do not divide", "launch --task digits --model vit(patch=3)"),
    Case("a model beyond all memory", "launch --model mlp(hidden=[1000000,1000000])"),
    Case("heads that do not divide", "launch --task text --model gpt(width=10,heads=4)"),
    Case(
        "a width without sines",
        "launch --task change_captions(size=16,pairs=9,test=4) model.width=6 model.heads=2",
    ),
    Case(
        "a model of pictures for pairs",
        "launch --task change_captions(size=16,pairs=9,test=4) --model mlp",
    ),
    Case(
        "a model of pairs for pictures", "launch --task digits --model change_captioner"
    ),
    Case(
        "pairs that show other places", "launch --task change_captions(size=16,shift=5)"
    ),
    Case(
        "a start that is not there",
        "launch --task change_captions(size=16,pairs=9,test=4) "
        "model.start=finishd/merged.safetensors",
    ),
    Case(
        "a start of another model",
        "launch --task change_captions(size=16,pairs=9,test=4) "
        "model.start=finished/merged.safetensors",
    ),
    Case(
        "show topology: png in a missing folder",
        "show topology ring --png nowhere/ring.png",
    ),
    Case("show topology: nothing to draw", "show topology ring --nodes 1 --png ring.png"),
    Case(
        "show schedule: png of a closed loop",
        "show schedule adaptive(0.1) task=quadratic --png s.png",
    ),
]


# --- a folder of wrong files ----------------------------------------------------------------------


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder for a while."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)


def furnish(folder: Path) -> None:
    """Fill a folder with everything that can be wrong."""
    (folder / "plugins").mkdir()
    (folder / "started").mkdir()
    (folder / "deep").mkdir()
    (folder / "started" / "mine.py").write_text("precious")
    files = {
        "plugins.py": PLUGINS,
        "back.csv": "node,time_s,compute_s\n0,0,0.1\n1,0,0.1\n0,0,0.2\n",
        "lines.csv": "node,time_s,compute_s,up_Bps\n0,0,0.1,1e6\n",
        **{
            file: f"from decentral import plugin\n{text}\n"
            for file, text in DECLARED.items()
        },
        "lone.py": "def chords(n): return n",
        "raises.py": "raise ValueError('not today')",
        "syntax.py": "def ring(n) return n",
        "kind.py": "from decentral import plugin\n@plugin('topologie')\ndef ring(n): ...",
        "taken.py": "import decentral.topology.classic\nfrom decentral import plugin\n"
        "@plugin('topology')\ndef ring(n): ...",
        "one.yaml": "nodes: 4",
        "deep/below.yaml": "topology: plugins.py:halves",
        "two.yaml": "nodes: 8",
        "malformed.yaml": "nodes: 4\n  steps: [1, 2\n",
        "list.yaml": "- 1\n- 2\n",
        "nameless.yaml": "communication:\n  path: ''\n  start: 80%\n",
        "toggling.yaml": "sam:\n  phases: every 0 steps\n",
        "phases.yaml": "sam:\n  phases:\n  - {begin: 20%}\n",
        "leaving.py": "exit(0)",
        "axes.yaml": "sweep: {seed: [0, 1]}",
        "axes_empty.yaml": "sweep: {seed: 3}",
        "axes_list.yaml": "sweep: [1, 2]",
        "broken.json": "{",
        "units.json": _graph("20 parsecs"),
        "negative.json": _graph("-20ms"),
        "narrow.json": _graph("20ms").replace('"id": 0', '"id": 0, "up": "fast"'),
        "free.json": _graph(None),
        "clogged.json": _graph("20ms", bandwidth="0 Mbit/s"),
        "partly.json": _graph("20ms", (1, 2)),
        "parts.json": _graph("20ms", nodes=3),
        **GRAPHS,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with inside(folder):
        _make_runs()


def _graph(
    latency: str | None, *free: tuple[int, int], nodes: int = 2, **more: str
) -> str:
    """Return a graph file: a link 0-1 that costs, and others that do not say what they do."""
    cost = {"latency": latency, **more} if latency else {}
    links = [{"source": 0, "target": 1, **cost}]
    links += [{"source": one, "target": other} for one, other in free]
    count = max([nodes, *(1 + max(link) for link in free)])
    return json.dumps({"nodes": [{"id": node} for node in range(count)], "links": links})


def _make_runs() -> None:
    """Make one finished run, and its wrecks."""
    assert decentral.cli.run([*SMALL.split(), "--quiet", "--out", "finished"]) == 0
    for name in WRECKS:
        shutil.copytree("finished", name)
        (Path(name) / "summary.json").unlink()
        (Path(name) / "merged.safetensors").unlink()
    _edit("old/config.yaml", "format 3:", "format 1:")
    _edit("before/config.yaml", "format 3:", "format 2:")
    _edit("later/config.yaml", "faults: []", "faults: []\nlater: 1")
    _edit("growing/metrics.jsonl", '"batch/size": 1,', '"batch/size": 2,')
    _edit("resized/config.yaml", "nodes: 4", "nodes: 5")
    text = Path("python/config.yaml").read_text()
    Path("python/config.yaml").write_text(
        re.sub(r"task:.*?\n(?=\w)", "task: python\n", text, flags=re.S)
    )
    shutil.rmtree("empty/checkpoints")
    Path("full/report.html").unlink()
    Path("full/report.html").mkdir()
    for manifest in Path("old_checkpoint/checkpoints").glob("*/manifest.json"):
        stated = json.loads(manifest.read_text())
        manifest.write_text(json.dumps(seal({**stated, "format": 1})))
    for rows in Path("damaged/checkpoints").glob("*/nodes-00000.safetensors"):
        rows.write_bytes(rows.read_bytes()[:-4] + b"\0\0\0\1")
    _edit("broken_metrics/metrics.jsonl", '{"step": 0', '{"step: 0')


def _edit(path: str | Path, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text, path
    Path(path).write_text(text.replace(old, new, 1))
