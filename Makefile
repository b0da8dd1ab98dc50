# `make` alone lists the targets. Everything that a target needs is installed or built by it, once, into a cache outside
# the tree (MILLPOND_CACHE, ~/.cache/millpond by default).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
KERNEL ?= 6.1

# Resolved when first used, so that `make help` installs nothing.
PY = $(eval PY := $$(shell tools/bootstrap.sh))$(PY)
export PYTHONPATH := core:adapters:operator:csidriver:statemanager:cli:e2e
export PYTHONDONTWRITEBYTECODE := 1
TIERS = $(PY) tools/tiers.py --kernel $(KERNEL)

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z][a-z0-9-]*:.*## /{printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2} /^##@/{printf "\n%s\n", substr($$0,5)}' Makefile

##@ See it work
.PHONY: demo
demo: generate-stubs ## The main job on a real cluster: a disk is pulled, nothing is lost (KERNEL=6.1|6.12, KEEP=1)
	@$(PY) -m demo --kernel $(KERNEL)

##@ Test
.PHONY: test test-unit test-model model test-api test-kernel test-faults test-conformance fuzz-csi e2e e2e-kubernetes \
	faults lint
test: generate-stubs ## What must pass: all tiers, of faults, conformance and e2e a selection; JUnit files in build/
	@$(TIERS) all

test-unit: generate-stubs ## Unit and property tests (two minutes)
	@$(TIERS) unit

test-model: generate-stubs ## The safety rules as a model, explored whole in small sizes; each rule broken must be caught
	@$(TIERS) model

model: ## The same in larger sizes, to the first two million states each (an hour or so)
	@PYTHONPATH=$$PYTHONPATH:tests/model $(PY) -m long

test-api: generate-stubs ## Real etcd and kube-apiserver: CRDs, CEL, ownership, operator and state managers
	@$(TIERS) api

test-kernel: generate-stubs ## Real dm, md, nvmet and NVMe/TCP in a guest, on 6.1 and 6.12
	@$(TIERS) kernel

test-faults: generate-stubs ## A short selection of the fault suite, nodes that are cut off, holds, comparisons
	@$(TIERS) faults

test-conformance: generate-stubs ## csi-sanity against the driver: with doubles beneath it, and installed on a cluster
	@$(TIERS) conformance

fuzz-csi: generate-stubs ## Generated requests for the CSI driver, hostile ones and sane (SEED=1, COUNT=10000, FIRST=, SCENARIO=)
	@GRPC_VERBOSITY=NONE PYTHONPATH=$$PYTHONPATH:tests/csi $(PY) -m fuzz --seed $(or $(SEED),1) --count $(or $(COUNT),10000) \
		$(if $(FIRST),--first $(FIRST)) $(if $(SCENARIO),--scenario $(SCENARIO))

e2e: generate-stubs ## Every test on a three-node cluster, failover, restarts and upgrade included (KERNEL=)
	@$(TIERS) e2e

e2e-kubernetes: generate-stubs ## Kubernetes' own tests of storage drivers, on a cluster of their own (KERNEL=, SELECTION=1, LIST=1)
	@$(PY) -m external --kernel $(KERNEL) $(if $(SELECTION),--selection) $(if $(LIST),--list)

faults: generate-stubs ## Faults drawn from a seed, on real kernels (KERNEL=, SEED=1, COUNT=20, FIRST=, LIST=1; or CASE=)
	@$(PY) -m faults --kernel $(KERNEL) --seed $(or $(SEED),1) --count $(or $(COUNT),20) \
		$(if $(FIRST),--first $(FIRST)) $(if $(LIST),--list) $(if $(CASE),--case $(CASE))

lint: generate-stubs ## ruff, mypy --strict, import contracts, drift of generated files
	@$(TIERS) lint

##@ Make
.PHONY: generate generate-stubs images lock
generate: generate-stubs ## Write crds/ from the models, and the gRPC stubs
	@$(PY) tools/generate.py crds

generate-stubs:
	@$(PY) tools/generate.py stubs

images: ## Build the container image into the cache, without a registry
	@$(PY) -m lab images

lock: ## Pin the dependencies anew (needs pip-tools)
	@tools/lock.sh

##@ The lab: three nodes with stock kernels, no Docker, no KVM needed
.PHONY: lab-up lab-status lab-shell lab-fault lab-down
lab-up: ## Start it (KERNEL=6.1|6.12)
	@$(PY) -m lab up --kernel $(KERNEL)

lab-status: ## What is running, and where its kubeconfig is
	@$(PY) -m lab status

lab-shell: ## A root shell on a node (NODE=n1)
	@$(PY) -m lab shell $(or $(NODE),$(error say which node: make lab-shell NODE=n1))

lab-fault: ## Cause or undo a fault (DO="unplug n1 n1-disk1"; plug, cut-link, restore-link, power-off, power-on ...)
	@$(PY) -m lab fault $(or $(DO),$(error say what and where: make lab-fault DO="unplug n1 n1-disk1"))

lab-down: ## Stop it and leave nothing behind
	@$(PY) -m lab down

##@ Measure
.PHONY: bench-thread bench-datapath bench-recovery bench-heartbeats bench-hold bench-control bench-csi bench-density
bench-thread: generate-stubs ## The main thread's figures, into docs/performance.md
	@$(PY) -m bench.thread --kernel $(KERNEL)

bench-datapath: ## Reads and writes beside md, LVM and DRBD, into docs/performance.md (KERNEL=, DISKS=ssd: slower ones)
	@$(PY) -m bench.datapath --kernel $(KERNEL) $(if $(DISKS),--disks $(DISKS))

bench-recovery: ## What a lost leg costs until there are two copies again, into docs/performance.md (KERNEL=)
	@$(PY) -m bench.recovery --kernel $(KERNEL)

bench-heartbeats: ## What the nodes' Leases cost etcd and the API server, into docs/performance.md
	@$(PY) -m bench.heartbeats

bench-hold: generate-stubs ## For how long a writer stands in a quiescence that holds I/O (KERNEL=)
	@$(PY) -m bench.hold --kernel $(KERNEL)

bench-control: generate-stubs ## What a quiescence takes and costs as the cluster grows, into docs/performance.md (SIZE=100x3,1000x50)
	@$(PY) -m bench.control $(if $(SIZE),--sizes $(SIZE))

bench-csi: generate-stubs ## Claims and pods beside a driver that replicates nothing, into docs/performance.md (HOSTPATH=: checkouts of it; KERNEL=, COUNT=4: a small trial)
	@$(PY) -m bench.csi --kernel $(KERNEL) $(if $(COUNT),--count $(COUNT)) $(if $(HOSTPATH),--hostpath $(HOSTPATH))

bench-density: generate-stubs ## Many volumes on one node, one by one and all at rest, into docs/performance.md (KERNEL=, VOLUMES=250)
	@$(PY) -m bench.density --kernel $(KERNEL) --volumes $(or $(VOLUMES),250)
