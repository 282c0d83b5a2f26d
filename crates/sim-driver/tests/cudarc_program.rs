//! cudarc's safe layer, unmodified, on the simulated driver.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]

mod common;

use common::{PTX, fatbin, in_child};
use cudarc::driver::sys::{CUevent_flags, CUfunction_attribute_enum, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const SHARED_OPTIN: CUfunction_attribute_enum =
    CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;

fn one_cta(threads: u32, shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (1, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes }
}

#[test]
fn modules_copies_and_launches() {
    in_child("modules_copies_and_launches", &[("KILN_SIM_CC", "8.9")], || {
        let context = CudaContext::new(0).unwrap();
        assert!(context.name().unwrap().starts_with("Simulated"));
        assert_eq!(context.compute_capability().unwrap(), (8, 9));
        let stream = context.new_stream().unwrap();
        let module = context.load_module(Ptx::from_binary(fatbin(PTX, 80))).unwrap();
        let add = module.load_function("vector_add").unwrap();
        for n in [1usize, 31, 33, 1000] {
            let host: Vec<f32> = (0..n).map(|i| i as f32 * 0.25).collect();
            let a = stream.clone_htod(&host).unwrap();
            // Pinned memory in both directions.
            let mut pinned = unsafe { context.alloc_pinned::<f32>(n) }.unwrap();
            pinned.as_mut_slice().unwrap().copy_from_slice(&host);
            let mut b = stream.alloc_zeros::<f32>(n).unwrap();
            stream.memcpy_htod(&pinned, &mut b).unwrap();
            let mut out = stream.alloc_zeros::<f32>(n).unwrap();
            let count = n as u32;
            let mut launch = stream.launch_builder(&add);
            launch.arg(&a).arg(&b).arg(&mut out).arg(&count);
            unsafe { launch.launch(LaunchConfig::for_num_elems(count)) }.unwrap();
            stream.memcpy_dtoh(&out, &mut pinned).unwrap();
            let expected: Vec<f32> = host.iter().map(|x| x + x).collect();
            assert_eq!(pinned.as_slice().unwrap(), expected, "{n} elements");
        }
    });
}

#[test]
fn captured_graphs_repeat_their_work() {
    in_child("captured_graphs_repeat_their_work", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        let step = module.load_function("step").unwrap();
        let mut data = stream.clone_htod(&[1u32; 100]).unwrap();
        unsafe { context.disable_event_tracking() };
        let n = 100u32;
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        for _ in 0..2 {
            let mut launch = stream.launch_builder(&step);
            launch.arg(&mut data).arg(&n);
            unsafe { launch.launch(LaunchConfig::for_num_elems(n)) }.unwrap();
        }
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().expect("a graph");
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [1; 100], "capturing runs nothing");
        graph.upload().unwrap();
        for _ in 0..3 {
            graph.launch().unwrap();
        }
        // x → 2x + 1, six times, from 1.
        assert_eq!(stream.clone_dtoh(&data).unwrap(), [127; 100]);
    });
}

#[test]
fn events_order_streams_and_keep_time() {
    in_child("events_order_streams_and_keep_time", &[], || {
        let context = CudaContext::new(0).unwrap();
        let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        let step = module.load_function("step").unwrap();
        let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
        let (start, end) = (context.new_event(flags).unwrap(), context.new_event(flags).unwrap());
        let mut data = first.clone_htod(&[3u32; 64]).unwrap();
        start.record(&first).unwrap();
        let n = 64u32;
        for stream in [&first, &second] {
            second.join(&first).unwrap();
            let mut launch = stream.launch_builder(&step);
            launch.arg(&mut data).arg(&n);
            unsafe { launch.launch(LaunchConfig::for_num_elems(n)) }.unwrap();
        }
        end.record(&second).unwrap();
        end.synchronize().unwrap();
        assert!(start.elapsed_ms(&end).unwrap() > 0.0);
        assert_eq!(second.clone_dtoh(&data).unwrap(), [15; 64]);
    });
}

#[test]
fn occupancy_follows_registers_and_shared_memory() {
    in_child("occupancy_follows_registers_and_shared_memory", &[("KILN_SIM_CC", "9.0")], || {
        let context = CudaContext::new(0).unwrap();
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        let kernel = module.load_function("through_shared").unwrap();
        let blocks =
            |threads, shared| kernel.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None).unwrap();
        assert_eq!(blocks(256, 0), 8);
        assert_eq!(blocks(32, 0), 32);
        assert_eq!(blocks(256, 48 << 10), 4);
        assert_eq!(blocks(256, (48 << 10) + 1), 0, "more shared memory than the function may have");
        kernel.set_attribute(SHARED_OPTIN, 227 << 10).unwrap();
        assert_eq!(blocks(256, 227 << 10), 1);
        assert_eq!(module.load_function("bounded").unwrap().max_threads_per_block().unwrap(), 128);
        let free = kernel.occupancy_available_dynamic_smem_per_block(2, 256).unwrap();
        assert_eq!(free, 113 << 10);
    });
}

#[test]
fn dynamic_shared_memory_reaches_the_opt_in_limit() {
    for (cc, bytes) in [("8.0", 163 << 10), ("8.9", 99 << 10), ("9.0", 227 << 10)] {
        in_child("dynamic_shared_memory_reaches_the_opt_in_limit", &[("KILN_SIM_CC", cc)], || {
            let context = CudaContext::new(0).unwrap();
            let bytes = context
                .attribute(
                    cudarc::driver::sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                )
                .unwrap();
            let stream = context.default_stream();
            let module = context.load_module(Ptx::from_src(PTX)).unwrap();
            let kernel = module.load_function("through_shared").unwrap();
            kernel.set_attribute(SHARED_OPTIN, bytes).unwrap();
            assert!(kernel.set_attribute(SHARED_OPTIN, bytes + 1).is_err());
            let mut out = stream.alloc_zeros::<u32>(64).unwrap();
            let mut launch = stream.launch_builder(&kernel);
            launch.arg(&mut out).arg(&bytes);
            unsafe { launch.launch(one_cta(64, bytes as u32)) }.unwrap();
            assert_eq!(stream.clone_dtoh(&out).unwrap(), (0..64).collect::<Vec<u32>>());
            println!("opt-in {bytes}");
        })
        .into_iter()
        .for_each(|said| assert!(said.contains(&format!("opt-in {bytes}")), "{cc}: {said}"));
    }
}

#[test]
fn cooperative_launches_wait_for_all_ctas() {
    in_child("cooperative_launches_wait_for_all_ctas", &[("KILN_SIM_SMS", "4")], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        let kernel = module.load_function("neighbours").unwrap();
        let run = |ctas: u32| {
            let mut counter = stream.alloc_zeros::<u32>(1).unwrap();
            let mut data = stream.alloc_zeros::<u32>(ctas as usize).unwrap();
            let mut out = stream.alloc_zeros::<u32>(ctas as usize).unwrap();
            let mut launch = stream.launch_builder(&kernel);
            launch.arg(&mut counter).arg(&mut data).arg(&mut out);
            let config = LaunchConfig { grid_dim: (ctas, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 };
            unsafe { launch.launch_cooperative(config) }.map(|_| stream.clone_dtoh(&out).unwrap())
        };
        let expected: Vec<u32> = (0..128).map(|i| (i + 1) % 128 * 10).collect();
        assert_eq!(run(128).unwrap(), expected, "4 SMs of 32 CTAs");
        assert!(run(129).is_err(), "one CTA more than fit");
    });
}

#[test]
fn module_variables_have_addresses() {
    in_child("module_variables_have_addresses", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let module = context.load_module(Ptx::from_src(PTX)).unwrap();
        let bump = module.load_function("bump").unwrap();
        for _ in 0..2 {
            unsafe { stream.launch_builder(&bump).launch(one_cta(32, 0)) }.unwrap();
        }
        let bumps = module.get_global("bumps", &stream).unwrap();
        assert_eq!(stream.clone_dtoh(&bumps).unwrap(), (5u32 + 64).to_le_bytes());
    });
}

#[test]
fn devices_copy_between_each_other() {
    in_child("devices_copy_between_each_other", &[("KILN_SIM_DEVICES", "2"), ("KILN_SIM_VRAM_MIB", "64")], || {
        assert_eq!(CudaContext::device_count().unwrap(), 2);
        let (one, two) = (CudaContext::new(0).unwrap(), CudaContext::new(1).unwrap());
        let (here, there) = (one.default_stream(), two.default_stream());
        let source = here.clone_htod(&[7u32, 8, 9]).unwrap();
        let mut target = there.alloc_zeros::<u32>(3).unwrap();
        there.memcpy_dtod(&source, &mut target).unwrap();
        assert_eq!(there.clone_dtoh(&target).unwrap(), [7, 8, 9]);
        let (free, total) = two.mem_get_info().unwrap();
        assert_eq!((free, total), ((64 << 20) - 12, 64 << 20));
    });
}
