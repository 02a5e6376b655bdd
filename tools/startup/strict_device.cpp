// A second device for machines that have none. Its tensors lie in ordinary memory and every operation is done by the
// CPU, with the CPU's random numbers; but an operation that is given tensors of both devices is refused, as on a GPU.
// So what runs here on "strict" puts its tensors where they belong.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/extension.h>

#include <cstdlib>

namespace {

const auto STRICT = at::DeviceType::PrivateUse1;
at::Device strict() { return at::Device(STRICT, 0); }

// ---- memory, device, random numbers: the CPU's

struct Memory final : at::Allocator {
  at::DataPtr allocate(size_t n) override {
    void* p = n ? std::aligned_alloc(64, (n + 63) / 64 * 64) : nullptr;
    return {p, p, &std::free, strict()};
  }
  at::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }
};
Memory memory;
REGISTER_ALLOCATOR(STRICT, &memory);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  static constexpr at::DeviceType static_type = at::DeviceType::PrivateUse1;
  at::DeviceType type() const override { return STRICT; }
  at::Device exchangeDevice(at::Device) const override { return strict(); }
  at::Device getDevice() const override { return strict(); }
  void setDevice(at::Device) const override {}
  void uncheckedSetDevice(at::Device) const noexcept override {}
  at::Stream getStream(at::Device) const override { return at::Stream(at::Stream::DEFAULT, strict()); }
  at::Stream getDefaultStream(at::Device) const override { return at::Stream(at::Stream::DEFAULT, strict()); }
  at::Stream exchangeStream(at::Stream stream) const override { return stream; }
  at::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const at::Stream&, const at::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const at::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const at::DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(at::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  const at::Generator& getDefaultGenerator(at::DeviceIndex) const override {
    static auto generator = at::make_generator<at::CPUGeneratorImpl>(42);
    return generator;
  }
  at::Generator getNewGenerator(at::DeviceIndex) const override { return at::make_generator<at::CPUGeneratorImpl>(42); }
  at::Device getDeviceFromPtr(void*) const override { return strict(); }
  bool isPinnedPtr(const void*) const override { return false; }
  at::Allocator* getPinnedMemoryAllocator() const override { return at::getCPUAllocator(); }
};
Hooks hooks;

// ---- from one device to the other

at::Tensor as_cpu(const at::Tensor& t) {  // the same memory, seen as a CPU tensor
  if (!t.defined() || t.device().type() != STRICT) return t;
  auto storage = t.storage();
  auto* first = static_cast<char*>(storage.mutable_data()) + t.storage_offset() * t.itemsize();
  return at::from_blob(first, t.sizes(), t.strides(), [storage](void*) {}, t.options().device(at::kCPU).requires_grad(false));
}

at::Tensor& copy_(at::Tensor& self, const at::Tensor& source, bool) {
  if (self.numel()) as_cpu(self).copy_(as_cpu(source));
  return self;
}

at::Tensor as_strict(const at::Tensor& t) {  // a copy
  if (!t.defined()) return t;
  auto copy = at::empty_strided(t.sizes(), t.strides(), t.options().device(strict()));
  return copy_(copy, t, false);
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool) {
  auto target = to;
  return copy_(target, self, false);
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  auto target = to;
  target.resize_(self.sizes());
  return copy_(target, self, false);
}

// ---- what every device must do itself: make tensors, look at them in another shape, read a number

const c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);
using Dtype = std::optional<at::ScalarType>;
using Layout = std::optional<at::Layout>;
using Where = std::optional<at::Device>;

at::Tensor empty(at::IntArrayRef size, Dtype dtype, Layout, Where, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, KEYS, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, Dtype dtype, Layout, Where, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, KEYS, c10::dtype_or_default(dtype));
}

const at::Tensor& resize_(const at::Tensor& self, at::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(self, C10_AS_INTARRAYREF_SLOW(size), format);
}

at::Tensor as_strided(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  auto from = offset ? std::optional<int64_t>(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), from);
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

at::Tensor unfold(const at::Tensor& self, int64_t dimension, int64_t size, int64_t step) {
  return at::native::unfold(self, dimension, size, step);
}

at::Tensor& set_(at::Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::set_storage_cpu_(self, source, offset.expect_int(), C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

at::Tensor& set_whole_(at::Tensor& self, at::Storage source) {
  const int64_t n = source.nbytes() / self.itemsize();
  return at::native::set_storage_cpu_(self, source, 0, {n}, {1});
}

int64_t n_reads = 0;  // how often a number was asked for: each time a GPU would have to be waited for

at::Scalar local_scalar_dense(const at::Tensor& self) {
  ++n_reads;
  return at::native::_local_scalar_dense_cpu(as_cpu(self));
}

// ---- convolutions, which torch hands to a device whole

void same_device(const at::Tensor& a, const at::Tensor& b) {
  if (a.defined() && b.defined())
    TORCH_CHECK(a.device() == b.device(), "Expected all tensors to be on the same device, but found ", a.device(), " and ", b.device(), " in a convolution");
}

at::Tensor convolution(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& bias, c10::SymIntArrayRef stride,
                       c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  auto b = bias.value_or(at::Tensor());
  same_device(x, w), same_device(x, b);
  at::AutoDispatchBelowAutograd below;
  auto on_cpu = b.defined() ? std::optional<at::Tensor>(as_cpu(b)) : std::nullopt;
  return as_strict(at::convolution(as_cpu(x), as_cpu(w), on_cpu, C10_AS_INTARRAYREF_SLOW(stride), C10_AS_INTARRAYREF_SLOW(padding),
                                   C10_AS_INTARRAYREF_SLOW(dilation), transposed, C10_AS_INTARRAYREF_SLOW(output_padding), groups.expect_int()));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& w,
    c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding,
    c10::SymInt groups, std::array<bool, 3> wanted) {
  at::AutoDispatchBelowAutograd below;
  std::vector<int64_t> bias_size{transposed ? w.size(1) * groups.expect_int() : w.size(0)};
  auto [dx, dw, db] = at::convolution_backward(as_cpu(gradient), as_cpu(x), as_cpu(w), at::OptionalIntArrayRef(bias_size), C10_AS_INTARRAYREF_SLOW(stride),
      C10_AS_INTARRAYREF_SLOW(padding), C10_AS_INTARRAYREF_SLOW(dilation), transposed, C10_AS_INTARRAYREF_SLOW(output_padding), groups.expect_int(), wanted);
  return {as_strict(dx), as_strict(dw), as_strict(db)};
}

// ---- everything else

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  bool here = false, elsewhere = false;
  auto look = [&](const at::Tensor& t) {
    if (!t.defined()) return;
    if (t.device().type() == STRICT) here = true;
    else if (t.dim() > 0) elsewhere = true;  // a GPU takes single numbers from the CPU, too
  };
  for (const auto& argument : torch::jit::last(*stack, op.schema().arguments().size())) {
    TORCH_CHECK(!argument.isGenerator(), "Expected a 'strict' device type for generator but found 'cpu'");
    if (argument.isTensor()) look(argument.toTensor());
    else if (argument.isTensorList()) for (const at::Tensor& t : argument.toTensorList()) look(t);
    else if (argument.isOptionalTensorList())
      for (const auto& entry : argument.toOptionalTensorList()) if (std::optional<at::Tensor> t = entry) look(*t);
  }
  const auto& name = op.schema().operator_name().name;
  bool indexes = name.find("index") != std::string::npos;  // a GPU takes indices from the CPU, too
  TORCH_CHECK(!(here && elsewhere) || indexes, "Expected all tensors to be on the same device, but found strict and cpu in ", name);
  at::native::cpu_fallback(op, stack, false);
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy_);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("resize_", &resize_);
  m.impl("as_strided", &as_strided);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("view", &view);
  m.impl("unfold", &unfold);
  m.impl("set_.source_Storage_storage_offset", &set_);
  m.impl("set_.source_Storage", &set_whole_);
  m.impl("_local_scalar_dense", &local_scalar_dense);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("install", [] { at::RegisterPrivateUse1HooksInterface(&hooks); });
  m.def("n_reads", [] { return n_reads; });
}
