plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "{{ package }}"
    compileSdk = 35

    defaultConfig {
        applicationId = "{{ package }}"
        minSdk = 26
        targetSdk = 35
        versionCode = 1
        versionName = "1.0"
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    kotlinOptions {
        jvmTarget = "17"
    }

    // The runtime maps the file into memory as it lies in the package.
    androidResources {
        noCompress += "tflite"
    }
}

dependencies {
    implementation("{{ library }}")
}
