#![doc = include_str!("../../ARCHITECTURE.md")]

pub mod batch;
pub mod config;
pub mod demo;
pub mod guests;
pub mod judge;
pub mod metrics;
pub mod pipeline;
mod retry;
pub mod sandbox;
pub mod screen;
pub mod store;
pub mod stream;
pub mod tenant;
