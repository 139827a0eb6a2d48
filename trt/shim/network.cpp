// Networks: each node of the C interface becomes the nvinfer layer of the like name.
#include <string>
#include <vector>

#include "failure.h"
#include "library.h"

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::ITensor;

struct bei_trt_network {
  bei_trt_library *library;
  std::unique_ptr<nvinfer1::IBuilder> builder;
  std::unique_ptr<nvinfer1::INetworkDefinition> definition;
  std::vector<ITensor *> tensors;                    // of definition, by number
  nvinfer1::IOptimizationProfile *profile = nullptr; // of the last build; the builder's
};

namespace bei {

namespace {

Dims dimsOf(const bei_trt_dims &d) {
  if (d.count < 0 || d.count > BEI_TRT_MAX_DIMS)
    fail(BEI_TRT_FAILED, "%d dimensions are outside 0 to %d", d.count, BEI_TRT_MAX_DIMS);
  Dims dims = {};
  dims.nbDims = d.count;
  for (int32_t i = 0; i < d.count; i++)
    dims.d[i] = d.size[i];
  return dims;
}

size_t bytesOf(int32_t dtype) {
  switch (dtype) {
  case BEI_TRT_FLOAT32:
  case BEI_TRT_INT32:
    return 4;
  case BEI_TRT_FLOAT16:
  case BEI_TRT_BFLOAT16:
    return 2;
  case BEI_TRT_INT64:
    return 8;
  case BEI_TRT_BOOL:
  case BEI_TRT_FLOAT8:
    return 1;
  }
  fail(BEI_TRT_FAILED, "data type %d is unknown", dtype);
}

// Adding a node: reads it field by field and makes the layer.
class Adding {
public:
  Adding(bei_trt_network &network, const bei_trt_node &node) : network_(network), n_(*network.definition), node_(node) {
    if (node.input_count < 0 || node.input_count > BEI_TRT_MAX_INPUTS || node.int_count < 0 ||
        node.int_count > 3 * BEI_TRT_MAX_DIMS)
      fail(BEI_TRT_FAILED, "node %d has %d inputs and %d ints", node.kind, node.input_count, node.int_count);
  }

  ITensor *tensor() {
    switch (node_.kind) {
    case BEI_TRT_CONSTANT:
      return constant();
    case BEI_TRT_SHAPE:
      return made(n_.addShape(input(0)));
    case BEI_TRT_GATHER:
      return made(n_.addGather(input(0), input(1), integer(0)));
    case BEI_TRT_RESHAPE:
      return reshape();
    case BEI_TRT_TRANSPOSE:
      return transpose();
    case BEI_TRT_MATMUL:
      return made(n_.addMatrixMultiply(input(0), matrix(0), input(1), matrix(1)));
    case BEI_TRT_ELEMENTWISE:
      return made(n_.addElementWise(input(0), input(1), static_cast<nvinfer1::ElementWiseOperation>(integer(0))));
    case BEI_TRT_UNARY:
      return made(n_.addUnary(input(0), static_cast<nvinfer1::UnaryOperation>(integer(0))));
    case BEI_TRT_ACTIVATION:
      return made(n_.addActivation(input(0), static_cast<nvinfer1::ActivationType>(integer(0))));
    case BEI_TRT_SOFTMAX: {
      nvinfer1::ISoftMaxLayer *layer = n_.addSoftMax(input(0));
      ITensor *out = made(layer);
      layer->setAxes(1U << integer(0));
      return out;
    }
    case BEI_TRT_REDUCE:
      return made(n_.addReduce(input(0), static_cast<nvinfer1::ReduceOperation>(integer(0)), 1U << integer(1),
                               integer(2) != 0));
    case BEI_TRT_CONCAT:
      return concat();
    case BEI_TRT_SLICE: {
      const int32_t rank = input(0).getDimensions().nbDims;
      nvinfer1::ISliceLayer *layer = n_.addSlice(input(0), part(0, rank), part(0, rank), part(0, rank));
      ITensor *out = made(layer);
      layer->setInput(1, input(1));
      layer->setInput(2, input(2));
      return out;
    }
    case BEI_TRT_IOTA: {
      nvinfer1::IFillLayer *layer =
          n_.addFill(nvinfer1::Dims{1, {1}}, nvinfer1::FillOperation::kLINSPACE, DataType::kINT32);
      ITensor *out = made(layer);
      layer->setInput(0, input(0));
      layer->setAlphaInt64(0);
      layer->setBetaInt64(1);
      return out;
    }
    case BEI_TRT_CAST:
      return made(n_.addCast(input(0), static_cast<DataType>(node_.dtype)));
    case BEI_TRT_SELECT:
      return made(n_.addSelect(input(0), input(1), input(2)));
    case BEI_TRT_NORMALIZATION:
      return normalization();
    case BEI_TRT_ATTENTION:
      return attention();
    case BEI_TRT_QUANTIZE:
      return scaled(n_.addQuantize(input(0), input(1), static_cast<DataType>(node_.dtype)));
    case BEI_TRT_DEQUANTIZE:
      return scaled(n_.addDequantize(input(0), input(1), static_cast<DataType>(node_.dtype)));
    }
    fail(BEI_TRT_FAILED, "node kind %d is unknown", node_.kind);
  }

private:
  bei_trt_network &network_;
  nvinfer1::INetworkDefinition &n_;
  const bei_trt_node &node_;

  ITensor &input(int32_t i) {
    if (i >= node_.input_count)
      fail(BEI_TRT_FAILED, "node kind %d lacks input %d", node_.kind, i);
    const int32_t t = node_.inputs[i];
    if (t < 0 || static_cast<size_t>(t) >= network_.tensors.size())
      fail(BEI_TRT_FAILED, "node kind %d: input %d is tensor %d of %zu", node_.kind, i, t, network_.tensors.size());
    return *network_.tensors[static_cast<size_t>(t)];
  }

  int32_t integer(int32_t i) const {
    if (i >= node_.int_count)
      fail(BEI_TRT_FAILED, "node kind %d lacks number %d", node_.kind, i);
    return static_cast<int32_t>(node_.ints[i]);
  }

  Dims part(int32_t from, int32_t count) const {
    Dims dims = {};
    dims.nbDims = count;
    for (int32_t i = 0; i < count; i++)
      dims.d[i] = integer(from + i);
    return dims;
  }

  nvinfer1::MatrixOperation matrix(int32_t i) const {
    return integer(i) != 0 ? nvinfer1::MatrixOperation::kTRANSPOSE : nvinfer1::MatrixOperation::kNONE;
  }

  ITensor *made(nvinfer1::ILayer *layer) const {
    if (layer == nullptr)
      fail(BEI_TRT_FAILED, "TensorRT refuses node kind %d (%s)", node_.kind,
           node_.name == nullptr ? "unnamed" : node_.name);
    if (node_.name != nullptr)
      layer->setName(node_.name);
    return layer->getOutput(0);
  }

  ITensor *constant() {
    const Dims dims = dimsOf(node_.dims);
    int64_t count = 1;
    for (int32_t i = 0; i < dims.nbDims; i++)
      count *= dims.d[i];
    bytesOf(node_.dtype);
    return made(n_.addConstant(dims, nvinfer1::Weights{static_cast<DataType>(node_.dtype), node_.data, count}));
  }

  ITensor *reshape() {
    nvinfer1::IShuffleLayer *layer = n_.addShuffle(input(0));
    ITensor *out = made(layer);
    if (node_.input_count > 1)
      layer->setInput(1, input(1));
    else
      layer->setReshapeDimensions(dimsOf(node_.dims));
    return out;
  }

  ITensor *transpose() {
    nvinfer1::IShuffleLayer *layer = n_.addShuffle(input(0));
    ITensor *out = made(layer);
    nvinfer1::Permutation permutation = {};
    for (int32_t i = 0; i < node_.int_count && i < Dims::MAX_DIMS; i++)
      permutation.order[i] = integer(i);
    layer->setFirstTranspose(permutation);
    return out;
  }

  ITensor *concat() {
    std::vector<ITensor *> parts;
    for (int32_t i = 0; i < node_.input_count; i++)
      parts.push_back(&input(i));
    nvinfer1::IConcatenationLayer *layer = n_.addConcatenation(parts.data(), node_.input_count);
    ITensor *out = made(layer);
    layer->setAxis(integer(0));
    return out;
  }

  ITensor *normalization() {
#if BEI_TRT_AT_LEAST(10, 15)
    nvinfer1::INormalizationLayer *layer = n_.addNormalizationV2(input(0), input(1), input(2), 1U << integer(0));
#else
    nvinfer1::INormalizationLayer *layer = n_.addNormalization(input(0), input(1), input(2), 1U << integer(0));
#endif
    ITensor *out = made(layer);
    layer->setEpsilon(node_.floats[0]);
    return out;
  }

  ITensor *attention() {
#if BEI_TRT_AT_LEAST(10, 14)
    const bool causal = integer(0) != 0;
#if BEI_TRT_AT_LEAST(11, 0)
    nvinfer1::IAttention *a =
        n_.addAttentionV2(input(0), input(1), input(2), nvinfer1::AttentionNormalizationOp::kSOFTMAX,
                          causal ? nvinfer1::CausalMaskKind::kUPPER_LEFT : nvinfer1::CausalMaskKind::kNONE);
#else
    nvinfer1::IAttention *a =
        n_.addAttention(input(0), input(1), input(2), nvinfer1::AttentionNormalizationOp::kSOFTMAX, causal);
#endif
    if (a == nullptr)
      fail(BEI_TRT_FAILED, "TensorRT refuses an attention");
    bool ok = a->setDecomposable(integer(1) != 0);
    if (integer(2) == 1)
      ok = a->setMask(input(3)) && ok;
#if BEI_TRT_AT_LEAST(11, 0)
    if (integer(2) == 2)
      ok = a->setKeyValueLengths(&input(3)) && ok;
#else
    if (integer(2) == 2)
      fail(BEI_TRT_UNSUPPORTED, "attention with lengths needs TensorRT 11 or TensorRT-RTX");
#endif
    if (node_.name != nullptr)
      ok = a->setName(node_.name) && ok;
    if (!ok)
      fail(BEI_TRT_FAILED, "TensorRT refuses an option of an attention");
    return a->getOutput(0);
#else
    fail(BEI_TRT_UNSUPPORTED, "attention layers need TensorRT 10.14 or later, or TensorRT-RTX");
#endif
  }

  template <typename Layer> ITensor *scaled(Layer *layer) {
    ITensor *out = made(layer);
    if (integer(0) >= 0)
      layer->setAxis(integer(0));
    return out;
  }
};

int32_t number(bei_trt_network *network, ITensor *tensor) {
  if (tensor == nullptr)
    fail(BEI_TRT_FAILED, "TensorRT gives a layer no output");
  network->tensors.push_back(tensor);
  return static_cast<int32_t>(network->tensors.size()) - 1;
}

int32_t networkNew(bei_trt_library *library, bei_trt_network **out, bei_trt_error *error) {
  return guard(error, [&] {
    auto network = std::make_unique<bei_trt_network>();
    network->library = library;
    network->builder = library->builder();
#if !BEI_TRT_IS_RTX && NV_TENSORRT_MAJOR == 10
    const uint32_t flags = 1U << static_cast<uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#else
    const uint32_t flags = 0; // networks are always strongly typed
#endif
    network->definition.reset(network->builder->createNetworkV2(flags));
    if (!network->definition)
      fail(BEI_TRT_FAILED, "TensorRT makes no network");
    *out = network.release();
  });
}

int32_t networkInput(bei_trt_network *network, const char *name, int32_t dtype, const bei_trt_dims *dims,
                     int32_t *tensor, bei_trt_error *error) {
  return guard(error, [&] {
    ITensor *made = network->definition->addInput(name, static_cast<DataType>(dtype), dimsOf(*dims));
    if (made == nullptr)
      fail(BEI_TRT_FAILED, "TensorRT refuses input %s", name);
    *tensor = number(network, made);
  });
}

ITensor &tensorOf(bei_trt_network *network, int32_t tensor) {
  if (tensor < 0 || static_cast<size_t>(tensor) >= network->tensors.size())
    fail(BEI_TRT_FAILED, "tensor %d of %zu", tensor, network->tensors.size());
  return *network->tensors[static_cast<size_t>(tensor)];
}

int32_t networkDimension(bei_trt_network *network, int32_t input, int32_t axis, const char *name,
                         bei_trt_error *error) {
  return guard(error, [&] {
    ITensor &t = tensorOf(network, input);
    t.setDimensionName(axis, name);
    const char *set = t.getDimensionName(axis); // the setter tells nobody of a failure
    if (set == nullptr || strcmp(set, name) != 0)
      fail(BEI_TRT_FAILED, "TensorRT does not name axis %d of tensor %d", axis, input);
  });
}

int32_t networkAdd(bei_trt_network *network, const bei_trt_node *node, int32_t *tensor, bei_trt_error *error) {
  return guard(error, [&] { *tensor = number(network, Adding(*network, *node).tensor()); });
}

int32_t networkOutput(bei_trt_network *network, int32_t tensor, const char *name, bei_trt_error *error) {
  return guard(error, [&] {
    ITensor &t = tensorOf(network, tensor);
    t.setName(name);
    network->definition->markOutput(t);
  });
}

int32_t networkTensors(bei_trt_network *network, bei_trt_tensor_info *infos, int32_t room, int32_t *count,
                       bei_trt_error *error) {
  return guard(error, [&] {
    const nvinfer1::INetworkDefinition &n = *network->definition;
    const int32_t inputs = n.getNbInputs(), all = inputs + n.getNbOutputs();
    if (all > room)
      fail(BEI_TRT_FAILED, "the network has %d inputs and outputs, more than %d", all, room);
    for (int32_t i = 0; i < all; i++) {
      const ITensor &t = i < inputs ? *n.getInput(i) : *n.getOutput(i - inputs);
      describe(infos[i], t.getName(), i < inputs, t.getType(), t.getDimensions());
      if (i < inputs && network->profile != nullptr) {
        copyDims(infos[i].least, network->profile->getDimensions(t.getName(), nvinfer1::OptProfileSelector::kMIN));
        copyDims(infos[i].most, network->profile->getDimensions(t.getName(), nvinfer1::OptProfileSelector::kMAX));
      }
    }
    *count = all;
  });
}

int32_t networkTensor(bei_trt_network *network, int32_t tensor, int32_t *dtype, bei_trt_dims *dims,
                      bei_trt_error *error) {
  return guard(error, [&] {
    const ITensor &t = tensorOf(network, tensor);
    copyDims(*dims, t.getDimensions());
    *dtype = static_cast<int32_t>(t.getType());
  });
}

int32_t networkBuild(bei_trt_network *network, const bei_trt_build_options *options, bei_trt_blob **out,
                     bei_trt_error *error) {
  return guard(error, [&] {
    std::unique_ptr<nvinfer1::IBuilderConfig> config(network->builder->createBuilderConfig());
    if (!config)
      fail(BEI_TRT_FAILED, "TensorRT makes no builder configuration");
    nvinfer1::IOptimizationProfile *profile = network->builder->createOptimizationProfile();
    network->profile = profile;
    for (int32_t i = 0; i < options->input_count; i++) {
      const bei_trt_profile_input &in = options->inputs[i];
      if (!profile->setDimensions(in.name, nvinfer1::OptProfileSelector::kMIN, dimsOf(in.least)) ||
          !profile->setDimensions(in.name, nvinfer1::OptProfileSelector::kOPT, dimsOf(in.best)) ||
          !profile->setDimensions(in.name, nvinfer1::OptProfileSelector::kMAX, dimsOf(in.most)))
        fail(BEI_TRT_FAILED, "TensorRT refuses the sizes of input %s", in.name);
    }
    if (config->addOptimizationProfile(profile) < 0)
      fail(BEI_TRT_FAILED, "TensorRT refuses the profile");
    config->clearFlag(nvinfer1::BuilderFlag::kTF32); // float32 means float32
    auto blob = std::make_unique<bei_trt_blob>();
    blob->memory.reset(network->builder->buildSerializedNetwork(*network->definition, *config));
    if (!blob->memory)
      fail(BEI_TRT_FAILED, "TensorRT %s builds no engine", network->library->version.c_str());
    *out = blob.release();
  });
}

void networkFree(bei_trt_network *network) { delete network; }

} // namespace

void fillNetworks(bei_trt_api &api) {
  api.network_new = networkNew;
  api.network_input = networkInput;
  api.network_dimension = networkDimension;
  api.network_add = networkAdd;
  api.network_output = networkOutput;
  api.network_tensor = networkTensor;
  api.network_tensors = networkTensors;
  api.network_build = networkBuild;
  api.network_free = networkFree;
}

} // namespace bei
