// Runs a bundle with TVM's C++ runtime, without Python:
//   segment BUNDLE_DIR [REPEATS] [IMAGE.ppm OUT.pgm]
// Without a picture it takes the bundle's own sample and compares all pixels with the expected ones.
// Everything goes through TVM's C interface, so any C++17 compiler and standard library will do.

#include <dlfcn.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace ffi = tvm::ffi;

namespace {

constexpr DLDevice kCpu{kDLCPU, 0};
constexpr DLDataType kUint8{kDLUInt, 8, 1};
constexpr int kPooledAllocator = 2;      // TVM's AllocatorType::kPooled
constexpr std::size_t kAlignment = 64;   // what TVM's generated code assumes of every tensor

// A picture of a binary PPM ("P6", three channels) or PGM ("P5", one channel) file.
struct Picture {
  std::int64_t height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> pixels;
};

Picture Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int depth = 0;
  Picture picture;
  file >> magic >> picture.width >> picture.height >> depth;
  file.get();  // the one blank before the pixels
  if (!file || (magic != "P6" && magic != "P5") || depth != 255) {
    throw std::runtime_error("cannot read " + path + ": not a binary PPM or PGM of 8 bits");
  }
  picture.channels = magic == "P6" ? 3 : 1;
  picture.pixels.resize(picture.height * picture.width * picture.channels);
  file.read(reinterpret_cast<char*>(picture.pixels.data()), picture.pixels.size());
  if (!file) throw std::runtime_error("cannot read " + path + ": it is cut off");
  return picture;
}

struct AlignedMemory {
  void AllocData(DLTensor* tensor) {
    std::size_t bytes = (ffi::GetDataSize(*tensor) + kAlignment - 1) / kAlignment * kAlignment;
    tensor->data = std::aligned_alloc(kAlignment, bytes);
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

// A compiled model. The library stays loaded as long as the object lives.
class Segmenter {
 public:
  explicit Segmenter(const std::string& bundle)
      : library_(ffi::Function::GetGlobalRequired("ffi.ModuleLoadFromFile")(bundle + "/model.so")
                     .cast<ffi::Module>()),
        machine_(Get(library_, "vm_load_executable")().cast<ffi::Module>()),
        main_(Get(machine_, "main")) {
    Get(machine_, "vm_initialization")(static_cast<int>(kDLCPU), 0, kPooledAllocator);
    // The weights are read where the library is mapped: it holds a DLPack record of each.
    void* library = dlopen((bundle + "/model.so").c_str(), RTLD_NOW);
    auto* count = library ? static_cast<std::int64_t*>(dlsym(library, "iseg_weight_count")) : nullptr;
    auto* records = count ? static_cast<DLManagedTensor*>(dlsym(library, "iseg_weights")) : nullptr;
    for (std::int64_t i = 0; records && i < *count; ++i) {
      weights_.push_back(ffi::Tensor::FromDLPack(records + i));
    }
  }

  // uint8 (H, W, 3) to uint8 (H, W); the model's size is fixed when it is compiled.
  std::vector<std::uint8_t> Run(const Picture& image) const {
    ffi::Tensor input = ffi::Tensor::FromNDAlloc(
        AlignedMemory(), {image.height, image.width, image.channels}, kUint8, kCpu);
    std::copy(image.pixels.begin(), image.pixels.end(),
              static_cast<std::uint8_t*>(input.data_ptr()));
    std::vector<ffi::AnyView> arguments{input};
    arguments.insert(arguments.end(), weights_.begin(), weights_.end());
    ffi::Any result;
    main_.CallPacked(arguments.data(), static_cast<int>(arguments.size()), &result);
    ffi::Tensor output = result.cast<ffi::Tensor>();
    const auto* classes = static_cast<const std::uint8_t*>(output.data_ptr());
    return {classes, classes + output.numel()};
  }

 private:
  static ffi::Function Get(const ffi::Module& module, const char* name) {
    return ffi::Function::GetGlobalRequired("ffi.ModuleGetFunction")(module, name, false)
        .cast<ffi::Function>();
  }

  ffi::Module library_, machine_;
  ffi::Function main_;
  std::vector<ffi::Tensor> weights_;
};

double Milliseconds(std::chrono::steady_clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

int Main(const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments.size() == 3 || arguments.size() > 4) {
    std::fprintf(stderr, "usage: segment BUNDLE_DIR [REPEATS] [IMAGE.ppm OUT.pgm]\n");
    return 2;
  }
  const std::string& bundle = arguments[0];
  const int repeats = arguments.size() > 1 ? std::max(1, std::atoi(arguments[1].c_str())) : 1;
  const bool own = arguments.size() == 4;
  const Picture image = Read(own ? arguments[2] : bundle + "/sample.ppm");
  const Segmenter segmenter(bundle);
  std::vector<std::uint8_t> classes = segmenter.Run(image);
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    classes = segmenter.Run(image);
    times.push_back(Milliseconds(std::chrono::steady_clock::now() - start));
  }
  std::sort(times.begin(), times.end());
  std::printf("median of %d runs: %.2f ms\n", repeats, times[times.size() / 2]);
  if (own) {
    std::ofstream file(arguments[3], std::ios::binary);
    file << "P5\n" << image.width << " " << image.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(classes.data()), classes.size());
    return file ? 0 : 1;
  }
  const bool equal = classes == Read(bundle + "/expected.pgm").pixels;
  std::printf("%zu pixels: %s\n", classes.size(), equal ? "equal, bit for bit" : "DIFFERENT");
  return equal ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Main({argv + 1, argv + argc});
  } catch (const std::exception& error) {  // TVM's errors are std::exceptions
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
