//! `cuEvent*`.

use crate::abi::Out;
use crate::core::table::Handle;

calls! {
    cuEventCreate(event: Out<Handle>, flags: u32) |d| event.give(|| d.event_create(flags));
    cuEventDestroy_v2(event: Handle) |d| d.event_destroy(event);
    cuEventRecord(event: Handle, stream: Handle) |d| d.event_record(event, stream, 0);
    cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) |d| d.event_record(event, stream, flags);
    cuEventSynchronize(event: Handle) |d| d.event_synchronize(event);
    cuEventQuery(event: Handle) |d| d.event_query(event);
    cuEventElapsedTime(ms: Out<f32>, start: Handle, end: Handle) |d| ms.give(|| d.event_elapsed_ms(start, end));
    cuEventElapsedTime_v2(ms: Out<f32>, start: Handle, end: Handle) |d| ms.give(|| d.event_elapsed_ms(start, end));
}
