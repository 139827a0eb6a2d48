//! Messages, clients and servers of the text-embeddings-inference family's two gRPC protocols, compiled from the files of
//! `proto/`. They are wire-compatible with the family's own: the same packages, names and numbers.

/// A router's protocol, for its clients: `proto/tei.proto`.
pub mod tei {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("tei.v1");
    }

    /// The encoded descriptors, for server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tei.bin"));
}

/// The protocol between a router and its backend process: `proto/embedding.proto`.
pub mod embedding {
    /// Version 1.
    #[allow(missing_docs, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("embedding.v1");
    }

    /// The encoded descriptors, for server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/embedding.bin"));
}
