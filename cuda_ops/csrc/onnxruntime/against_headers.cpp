// interface.h compared with onnxruntime's own headers, by a compiler that writes nothing.
#include <onnxruntime_c_api.h>

#include "interface.h"

namespace sparse4d::ort {

#define SAME_PLACE(ours, theirs) \
  static_assert(size_t(Place::ours) * sizeof(void*) == offsetof(OrtApi, theirs), #theirs " lies elsewhere in OrtApi")
SAME_PLACE(kCreateStatus, CreateStatus);
SAME_PLACE(kCreateCustomOpDomain, CreateCustomOpDomain);
SAME_PLACE(kCustomOpDomainAdd, CustomOpDomain_Add);
SAME_PLACE(kAddCustomOpDomain, AddCustomOpDomain);
SAME_PLACE(kGetTensorMutableData, GetTensorMutableData);
SAME_PLACE(kGetDimensionsCount, GetDimensionsCount);
SAME_PLACE(kGetDimensions, GetDimensions);
SAME_PLACE(kGetTensorTypeAndShape, GetTensorTypeAndShape);
SAME_PLACE(kKernelContextGetInput, KernelContext_GetInput);
SAME_PLACE(kKernelContextGetOutput, KernelContext_GetOutput);
SAME_PLACE(kReleaseTensorTypeAndShapeInfo, ReleaseTensorTypeAndShapeInfo);
SAME_PLACE(kKernelInfoGetAttributeArrayInt64, KernelInfoGetAttributeArray_int64);
SAME_PLACE(kKernelContextParallelFor, KernelContext_ParallelFor);

#define SAME_MEMBER(ours, theirs) \
  static_assert(offsetof(CustomOp, ours) == offsetof(OrtCustomOp, theirs), #theirs " lies elsewhere in OrtCustomOp")
SAME_MEMBER(version, version);
SAME_MEMBER(name, GetName);
SAME_MEMBER(execution_provider, GetExecutionProviderType);
SAME_MEMBER(input_type, GetInputType);
SAME_MEMBER(input_count, GetInputTypeCount);
SAME_MEMBER(output_type, GetOutputType);
SAME_MEMBER(output_count, GetOutputTypeCount);
SAME_MEMBER(destroy_kernel, KernelDestroy);
SAME_MEMBER(input_characteristic, GetInputCharacteristic);
SAME_MEMBER(output_characteristic, GetOutputCharacteristic);
SAME_MEMBER(input_memory, GetInputMemoryType);
SAME_MEMBER(create_kernel_v2, CreateKernelV2);
SAME_MEMBER(compute_v2, KernelComputeV2);
SAME_MEMBER(start_version, GetStartVersion);
SAME_MEMBER(end_version, GetEndVersion);

static_assert(offsetof(ApiBase, api) == offsetof(OrtApiBase, GetApi), "GetApi lies elsewhere in OrtApiBase");
static_assert(ORT_API_VERSION >= kVersion, "an onnxruntime before 1.17");
static_assert(int(ElementType::kFloat32) == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "float32");
static_assert(int(ElementType::kFloat16) == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, "float16");
static_assert(sizeof(ElementType) == sizeof(ONNXTensorElementDataType), "the size of an element type");
static_assert(kFail == ORT_FAIL && kRequired == INPUT_OUTPUT_REQUIRED && kDefaultMemory == OrtMemTypeDefault, "codes");

}  // namespace sparse4d::ort
