//! `cuMemcpy*` and `cuMemset*`.

use crate::code::Res;
use crate::core::Driver;
use crate::core::copy::{Order, Pointer};
use crate::core::table::Handle;
use crate::core::work::Fill;

fn fill(d: &mut Driver, address: u64, value: u32, element_bytes: u32, count: usize, order: Order) -> Res {
    let fill = Fill { address, value, element_bytes, width: count as u64, height: 1, pitch: 0 };
    d.fill(fill, order)
}

/// Pitch, element size, width and height of a 2D fill.
type Rows = (usize, u32, usize, usize);

fn fill_2d(d: &mut Driver, address: u64, value: u32, rows: Rows, order: Order) -> Res {
    let (pitch, element_bytes, width, height) = rows;
    let fill = Fill { address, value, element_bytes, width: width as u64, height: height as u64, pitch: pitch as u64 };
    d.fill(fill, order)
}

calls! {
    cuMemcpyHtoD_v2(to: u64, from: u64, bytes: usize) |d| {
        d.copy(Pointer::Device(to), Pointer::Host(from), bytes as u64, Order::Blocking)
    };
    cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) |d| {
        d.copy(Pointer::Device(to), Pointer::Host(from), bytes as u64, Order::Stream(stream))
    };
    cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) |d| {
        d.copy(Pointer::Host(to), Pointer::Device(from), bytes as u64, Order::Blocking)
    };
    cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) |d| {
        d.copy(Pointer::Host(to), Pointer::Device(from), bytes as u64, Order::Stream(stream))
    };
    cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) |d| {
        d.copy(Pointer::Device(to), Pointer::Device(from), bytes as u64, Order::Blocking)
    };
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) |d| {
        d.copy(Pointer::Device(to), Pointer::Device(from), bytes as u64, Order::Stream(stream))
    };
    cuMemcpy(to: u64, from: u64, bytes: usize) |d| {
        d.copy(Pointer::Unified(to), Pointer::Unified(from), bytes as u64, Order::Blocking)
    };
    cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) |d| {
        d.copy(Pointer::Unified(to), Pointer::Unified(from), bytes as u64, Order::Stream(stream))
    };
    cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) |d| {
        d.copy_peer((to, to_context), (from, from_context), bytes as u64, Order::Blocking)
    };
    cuMemcpyPeerAsync(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle) |d| {
        d.copy_peer((to, to_context), (from, from_context), bytes as u64, Order::Stream(stream))
    };
    cuMemsetD8_v2(to: u64, value: u8, count: usize) |d| fill(d, to, value.into(), 1, count, Order::Blocking);
    cuMemsetD16_v2(to: u64, value: u16, count: usize) |d| fill(d, to, value.into(), 2, count, Order::Blocking);
    cuMemsetD32_v2(to: u64, value: u32, count: usize) |d| fill(d, to, value, 4, count, Order::Blocking);
    cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) |d| {
        fill(d, to, value.into(), 1, count, Order::Stream(stream))
    };
    cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) |d| {
        fill(d, to, value.into(), 2, count, Order::Stream(stream))
    };
    cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) |d| {
        fill(d, to, value, 4, count, Order::Stream(stream))
    };
    cuMemsetD2D8_v2(to: u64, pitch: usize, value: u8, width: usize, height: usize) |d| {
        fill_2d(d, to, value.into(), (pitch, 1, width, height), Order::Blocking)
    };
    cuMemsetD2D16_v2(to: u64, pitch: usize, value: u16, width: usize, height: usize) |d| {
        fill_2d(d, to, value.into(), (pitch, 2, width, height), Order::Blocking)
    };
    cuMemsetD2D32_v2(to: u64, pitch: usize, value: u32, width: usize, height: usize) |d| {
        fill_2d(d, to, value, (pitch, 4, width, height), Order::Blocking)
    };
    cuMemsetD2D8Async(to: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Handle) |d| {
        fill_2d(d, to, value.into(), (pitch, 1, width, height), Order::Stream(stream))
    };
    cuMemsetD2D16Async(to: u64, pitch: usize, value: u16, width: usize, height: usize, stream: Handle) |d| {
        fill_2d(d, to, value.into(), (pitch, 2, width, height), Order::Stream(stream))
    };
    cuMemsetD2D32Async(to: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Handle) |d| {
        fill_2d(d, to, value, (pitch, 4, width, height), Order::Stream(stream))
    };
}
