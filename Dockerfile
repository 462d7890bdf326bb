# The one image of the chart: all programs, and the tools that make, check and grow file systems.
#   docker build -t registry.example/twinsite:0.1.0 .
FROM rust:1.95-trixie AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked \
      --bin twinsite-operator --bin twinsite-csi --bin twinsite-agent --bin kubectl-twinsite \
 && mkdir /out \
 && cp target/release/twinsite-operator target/release/twinsite-csi target/release/twinsite-agent target/release/kubectl-twinsite /out/

FROM debian:trixie-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates e2fsprogs mount util-linux xfsprogs \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /usr/local/bin/
# The operator and the CSI controller run as this user; the node's pods are root by their security context.
USER 65532:65532
