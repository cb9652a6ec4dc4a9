// What a custom operator needs of onnxruntime's C interface, declared here, because no wheel carries its headers.
//
// The interface is a table of functions; every version of onnxruntime keeps the places that earlier ones gave out, so
// these hold from version 17 on (https://onnxruntime.ai/docs/api/c: OrtApi, OrtCustomOp). against_headers.cpp compares
// them with the headers, where somebody has those: `python -m cuda_ops.build --onnxruntime-headers FOLDER`.
#pragma once
#include <cstddef>
#include <cstdint>

namespace sparse4d::ort {

constexpr uint32_t kVersion = 17;  // the oldest that divides work among onnxruntime's threads

// onnxruntime's own; only pointers to them are ever held.
struct Status;
struct Value;
struct ShapeInfo;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct Domain;

enum class ElementType : int { kFloat32 = 1, kFloat16 = 10 };
constexpr int kFail = 1;           // error code
constexpr int kRequired = 0;       // of an input or output
constexpr int kDefaultMemory = 0;  // the provider's

// Places in the table.
enum class Place : size_t {
  kCreateStatus = 0,
  kCreateCustomOpDomain = 26,
  kCustomOpDomainAdd = 27,
  kAddCustomOpDomain = 28,
  kGetTensorMutableData = 51,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kKernelContextGetInput = 90,
  kKernelContextGetOutput = 91,
  kReleaseTensorTypeAndShapeInfo = 99,
  kKernelInfoGetAttributeArrayInt64 = 163,
  kKernelContextParallelFor = 274,
};

// A custom operator as onnxruntime reads it: `version` first, then functions, each at its place. Those that are not
// named here are for other kinds of operators.
struct CustomOp {
  using Unused = void (*)();

  uint32_t version = kVersion;
  Unused create_kernel_v1 = nullptr;
  const char* (*name)(const CustomOp*) = nullptr;
  const char* (*execution_provider)(const CustomOp*) = nullptr;
  ElementType (*input_type)(const CustomOp*, size_t index) = nullptr;
  size_t (*input_count)(const CustomOp*) = nullptr;
  ElementType (*output_type)(const CustomOp*, size_t index) = nullptr;
  size_t (*output_count)(const CustomOp*) = nullptr;
  Unused compute_v1 = nullptr;
  void (*destroy_kernel)(void* kernel) = nullptr;
  int (*input_characteristic)(const CustomOp*, size_t index) = nullptr;
  int (*output_characteristic)(const CustomOp*, size_t index) = nullptr;
  int (*input_memory)(const CustomOp*, size_t index) = nullptr;
  Unused variadic[4] = {};
  Status* (*create_kernel_v2)(const CustomOp*, const void* api, const KernelInfo*, void** kernel) = nullptr;
  Status* (*compute_v2)(void* kernel, KernelContext*) = nullptr;
  Unused infer_shape = nullptr;
  int (*start_version)(const CustomOp*) = nullptr;
  int (*end_version)(const CustomOp*) = nullptr;
  Unused later[4] = {};  // asked for only where `version` is 18 or more
};

// The table's functions, with their types. A Status is null where all went well.
class Api {
 public:
  explicit Api(const void* table) : table_(static_cast<const Function*>(table)) {}

  Status* create_status(int code, const char* text) const {
    return at<Status*(int, const char*)>(Place::kCreateStatus)(code, text);
  }
  Status* create_domain(const char* name, Domain** domain) const {
    return at<Status*(const char*, Domain**)>(Place::kCreateCustomOpDomain)(name, domain);
  }
  Status* add_operator(Domain* domain, const CustomOp* op) const {
    return at<Status*(Domain*, const CustomOp*)>(Place::kCustomOpDomainAdd)(domain, op);
  }
  Status* add_domain(SessionOptions* options, Domain* domain) const {
    return at<Status*(SessionOptions*, Domain*)>(Place::kAddCustomOpDomain)(options, domain);
  }
  Status* data(Value* value, void** data) const {
    return at<Status*(Value*, void**)>(Place::kGetTensorMutableData)(value, data);
  }
  Status* shape_info(const Value* value, ShapeInfo** info) const {
    return at<Status*(const Value*, ShapeInfo**)>(Place::kGetTensorTypeAndShape)(value, info);
  }
  Status* rank(const ShapeInfo* info, size_t* rank) const {
    return at<Status*(const ShapeInfo*, size_t*)>(Place::kGetDimensionsCount)(info, rank);
  }
  Status* shape(const ShapeInfo* info, int64_t* sizes, size_t rank) const {
    return at<Status*(const ShapeInfo*, int64_t*, size_t)>(Place::kGetDimensions)(info, sizes, rank);
  }
  void release(ShapeInfo* info) const { at<void(ShapeInfo*)>(Place::kReleaseTensorTypeAndShapeInfo)(info); }
  Status* attribute(const KernelInfo* info, const char* name, int64_t* values, size_t* count) const {
    using Signature = Status*(const KernelInfo*, const char*, int64_t*, size_t*);
    return at<Signature>(Place::kKernelInfoGetAttributeArrayInt64)(info, name, values, count);
  }
  Status* input(const KernelContext* context, size_t index, const Value** value) const {
    using Signature = Status*(const KernelContext*, size_t, const Value**);
    return at<Signature>(Place::kKernelContextGetInput)(context, index, value);
  }
  Status* output(KernelContext* context, size_t index, const int64_t* shape, size_t rank, Value** value) const {
    using Signature = Status*(KernelContext*, size_t, const int64_t*, size_t, Value**);
    return at<Signature>(Place::kKernelContextGetOutput)(context, index, shape, rank, value);
  }
  // Calls task(data, 0) to task(data, tasks - 1) on onnxruntime's threads; batches 0: as it sees fit.
  Status* parallel_for(const KernelContext* context, void (*task)(void*, size_t), size_t tasks, size_t batches,
                       void* data) const {
    using Signature = Status*(const KernelContext*, void (*)(void*, size_t), size_t, size_t, void*);
    return at<Signature>(Place::kKernelContextParallelFor)(context, task, tasks, batches, data);
  }

 private:
  using Function = void (*)();

  template <typename Signature>
  Signature* at(Place place) const {
    return reinterpret_cast<Signature*>(table_[size_t(place)]);
  }

  const Function* table_;
};

// What onnxruntime gives a library to start with.
struct ApiBase {
  const void* (*api)(uint32_t version);  // null: it is older
  const char* (*version)();
};

}  // namespace sparse4d::ort
